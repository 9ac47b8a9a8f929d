//! [`Program`]: any graph, tensors in and tensors out, for what is no image classifier.

use crate::error::{Error, Place, Result};
use crate::graph::body::take_constants;
use crate::graph::import::refuse_unsupported;
use crate::graph::ir;
use crate::graph::lower;
use crate::graph::ops::Mode;
use crate::graph::params;
use crate::graph::plan::Plan;
use crate::onnx::OnnxFile;
use crate::tensor::{Tensor, no_grad};

/// A compiled graph with any number of inputs and outputs: the same plan as a [`Model`](crate::graph::Model)'s, without a
/// classifier's assumptions about it.
pub struct Program {
    plan: Plan,
    stored: Vec<Tensor>,
    inputs: Vec<String>,
}

impl Program {
    /// Compiles a checked file.
    ///
    /// # Errors
    /// Malformed or Unsupported, naming the node.
    pub fn compile(file: OnnxFile) -> Result<Program> {
        let _guard = no_grad();
        let file = lower(file)?.file;
        let compile = || -> Result<Program> {
            let mut ir = ir::read(&file)?;
            refuse_unsupported(&ir.unsupported)?;
            params::assign(&mut ir)?;
            let inputs = ir.inputs.iter().map(|&id| ir.values[id].name.clone()).collect();
            let (stored, indices) = take_constants(&mut ir);
            let outputs = ir.outputs.clone();
            Ok(Program { plan: Plan::compile(ir, &indices, &outputs)?, stored, inputs })
        };
        compile().at(|| file.path.display())
    }

    /// The names of the inputs that a run needs, in the file's order: those that no initializer stands for.
    pub fn inputs(&self) -> &[String] {
        &self.inputs
    }

    /// The graph's outputs for these inputs, in the file's order.
    ///
    /// # Errors
    /// Usage for a wrong number of inputs; else what a node raises, with its name.
    pub fn run(&self, inputs: &[Tensor], mode: Mode) -> Result<Vec<Tensor>> {
        if inputs.len() != self.inputs.len() {
            return Err(Error::usage(format!("{} tensors for a graph of {} inputs", inputs.len(), self.inputs.len())));
        }
        self.plan.run_all(&self.stored, inputs, mode)
    }
}
