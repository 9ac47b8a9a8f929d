//! A checked file becomes a plan and its stored tensors; every decision is written into the [`ImportReport`].

use std::collections::{BTreeMap, HashMap, HashSet};

use serde::Serialize;

use crate::error::{Error, ErrorKind, Result};
use crate::graph::findings;
use crate::graph::input::Input;
use crate::graph::ir::{self, Ir, Origin, Unsupported, ValueId};
use crate::graph::ops::with_at_most;
use crate::graph::options::{BatchSizeRepair, ImportOptions, QuantizationRepair};
use crate::graph::params::{self, Role, SplitBuffer};
use crate::graph::passes::batch_size::{self, Outcome, Patch};
use crate::graph::passes::head::{self, Head};
use crate::graph::passes::quantization;
use crate::graph::passes::subgraph_weights;
use crate::graph::passes::whole_numbers;
use crate::graph::plan::{LOGITS, Plan, Trace};
use crate::graph::{Layout, Lowered, Mode};
use crate::onnx::proto::{ModelProto, ValueInfoProto, tensor_proto::DataLocation};
use crate::tensor::{Kind, Tensor, is_float, no_grad};

/// What the import found and did: the summary of `cmira check`.
#[derive(Debug, Clone, Serialize)]
pub struct ImportReport {
    /// The standard domain's opset.
    pub opset: i64,
    /// Operator counts, as in the file.
    pub operators: BTreeMap<String, usize>,
    /// The order in which the file takes an image's numbers.
    pub layout: Layout,
    /// The name of the value that holds the scores of the classes.
    pub scores: String,
    /// Whether that value is inside the graph, not one of its outputs.
    pub scores_inside: bool,
    /// The classes' names, where the graph has them.
    pub labels: Vec<String>,
    /// What the scores are.
    pub head: Head,
    /// Trainable parameters.
    pub trainable: Vec<TensorInfo>,
    /// Names of those that only subgraphs read, which run or do not, as the images will have it.
    pub conditional: Vec<String>,
    /// Running statistics.
    pub buffers: Vec<TensorInfo>,
    /// Constants that are not trained.
    pub frozen: Vec<TensorInfo>,
    /// What was changed so that the model can be trained, in words.
    pub repairs: Vec<String>,
    /// What somebody who knows the model could decide otherwise, in words.
    pub notes: Vec<String>,
    /// Whether the file takes images as whole numbers from 0 to 255.
    pub whole_numbers: bool,
    /// Values that are rounded to steps on the way, as in quantised models, by their names.
    pub rounded: Vec<String>,
    /// Outputs that are not used.
    pub unused_outputs: Vec<String>,
}

/// One stored tensor in a report.
#[derive(Debug, Clone, Serialize)]
pub struct TensorInfo {
    /// Its name in the file.
    pub name: String,
    /// Its shape.
    pub shape: Vec<i64>,
    /// Why it is frozen; empty for others.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub reason: &'static str,
}

impl TensorInfo {
    /// Whether it holds several real numbers, which may have been learned: not positions, shapes and single constants.
    pub fn may_be_learned(&self) -> bool {
        !["integer", "boolean", "a single number"].contains(&self.reason)
    }
}

/// What copies of one model have in common.
pub(crate) struct Shared {
    pub plan: Plan,
    /// The file without the payload of what is stored as tensors.
    pub skeleton: ModelProto,
    pub stored: Vec<StoredInfo>,
    /// Indices of the trainable ones among `stored`.
    pub params: Vec<usize>,
    pub copies: Vec<SplitBuffer>,
    pub patches: Vec<Patch>,
    pub fixed_batch: Option<i64>,
    pub input_kind: Kind,
    pub image: [Option<i64>; 3],
    pub classes: usize,
    pub options: ImportOptions,
    pub report: ImportReport,
    pub sha256: String,
    /// Whether the file kept tensors in files beside it.
    pub external_data: bool,
}

/// What is known of one stored tensor.
pub(crate) struct StoredInfo {
    pub name: String,
    pub origin: Origin,
    pub trainable: bool,
    pub buffer: bool,
    pub is_weight_matrix: bool,
    pub stays_on_host: bool,
}

/// What can be said of a file without compiling it.
pub struct Survey {
    /// The standard domain's opset.
    pub opset: i64,
    /// Operator counts.
    pub operators: BTreeMap<String, usize>,
    /// Nodes that cannot be run.
    pub unsupported: Vec<Unsupported>,
}

/// Looks at every node, without compiling the whole.
///
/// # Errors
/// Malformed, naming the node.
pub fn survey(lowered: &Lowered, options: &ImportOptions) -> Result<Survey> {
    let scores = head::choose(ir::main_graph(&lowered.file)?, options.scores.as_deref())?;
    let ir = ir::read_towards(&lowered.file, &scores.value)?;
    let operators = lowered.operators.clone();
    Ok(Survey { opset: opset(&lowered.file.model), operators, unsupported: ir.unsupported })
}

fn opset(model: &ModelProto) -> i64 {
    let standard = model.opset_import.iter().filter(|o| matches!(o.domain.as_str(), "" | "ai.onnx"));
    standard.map(|o| o.version).max().unwrap_or(0)
}

/// Compiles a file.
pub(crate) fn import(lowered: Lowered, options: &ImportOptions) -> Result<(Shared, Vec<Tensor>)> {
    let Lowered { mut file, operators, mut repairs } = lowered;
    let _guard = no_grad();
    let whole = file.model.graph.as_mut().and_then(whole_numbers::take_floats);
    if let Some(kind) = whole {
        repairs
            .push(format!("the file takes images as whole numbers ({kind:?}); here they are floats, as mixtures of images are"));
    }
    let quantization::Released { dequantised: released, cast } = quantization::release(&mut file, options.repairs.quantization)?;
    if cast > 0 {
        repairs.push(format!(
            "{cast} tensors of eight-bit integers that the graph casts are floats, which are trained where weights stand"
        ));
    }
    if released > 0 {
        repairs.push(match options.repairs.quantization {
            QuantizationRepair::Dequantize => {
                format!("{released} quantised weights were dequantised into floats, which are trained")
            }
            QuantizationRepair::Fake => {
                format!(
                    "{released} quantised weights are floats, which are trained and in every pass rounded to the file's steps"
                )
            }
        });
    }
    let scores = head::choose(ir::main_graph(&file)?, options.scores.as_deref())?;
    let mut ir = ir::read_towards(&file, &scores.value)?;
    refuse_unsupported(&ir.unsupported)?;
    if !ir.hidden_weights.is_empty() {
        let lifted = subgraph_weights::lift(&mut file.model, &ir.hidden_weights);
        // Both at once would double the memory.
        drop(ir);
        ir = ir::read_towards(&file, &scores.value)?;
        repairs.push(format!("{lifted} weights in subgraphs were moved to the main graph, so that they are trained"));
    }
    if let Some(weight) = ir.hidden_weights.first() {
        return Err(Error::unsupported(format!("the weight '{weight}' stands in a subgraph, where it could not be trained")));
    }
    let roles = params::assign(&mut ir)?;
    repairs.extend(roles.repairs);
    let output = ir.outputs[0];
    if ir.values[output].constant.is_some() {
        let name = &ir.values[output].name;
        return Err(Error::unsupported(format!("the output '{name}' is a constant where a classifier's depends on the image")));
    }
    let matrices = weight_matrices(&ir);
    let (logits, head) = head::find(&ir, &file.model);
    let aside = findings::frozen_aside(&mut ir, &roles.used_up);
    let (infos, mut stored, indices, mut frozen) = store(&mut ir, &roles.of, &matrices);
    frozen.extend(aside);
    frozen.extend(findings::unneeded(&file.model, &scores.value));
    let mut input = Input::of(&ir, &file.model, options)?;
    if whole.is_some() {
        input.largest = 255.0;
    }
    input.admit(file.image_numbers())?;
    input.arrange(&mut ir)?;
    let mut choices: Vec<String> = scores.note.into_iter().collect();
    if input.layout != Layout::Nchw {
        choices.push(format!("the file takes images as {}; they are arranged so before the graph", input.layout));
    }
    repairs.splice(0..0, choices);
    let report = ImportReport {
        opset: opset(&file.model),
        operators: operators.clone(),
        layout: input.layout,
        scores: scores.value.clone(),
        scores_inside: !file.model.graph.output.iter().any(|output| output.name == scores.value),
        labels: scores.labels,
        head,
        trainable: describe(&infos, &stored, |i| i.trainable),
        conditional: findings::conditional(&ir, &infos, &indices),
        buffers: describe(&infos, &stored, |i| i.buffer),
        frozen,
        repairs,
        whole_numbers: whole.is_some(),
        rounded: findings::rounded(&ir),
        notes: [findings::open_questions(&file.model, options), findings::left_quantised(&ir, &roles.of, &operators, options)]
            .concat(),
        unused_outputs: findings::unused_outputs(&file.model, &scores.value),
    };
    let plan = Plan::compile(ir, &indices, &[logits, output])?;
    // Whether scores are probabilities, and whether images keep to themselves, are questions about numbers.
    let only_shapes = plan.is_piecewise_linear() && !batch_size::suspicious(&plan, &stored, input.batch.unwrap_or(1));
    let sha256 = file.identity()?;
    let external_data = sha256 != file.sha256;
    clear_payload(&mut file.model, &infos);
    // What is left outside the file is small, and has to travel with the model when it is exported.
    file.embed_external_data()?;
    let params = (0..infos.len()).filter(|&i| infos[i].trainable).collect();
    let mut shared = Shared {
        plan,
        skeleton: file.model,
        stored: infos,
        params,
        copies: roles.copies,
        patches: Vec::new(),
        fixed_batch: None,
        input_kind: input.kind,
        image: input.image,
        classes: 0,
        options: options.clone(),
        report,
        sha256,
        external_data,
    };
    let (classes, mut first) = classes(&shared, &stored, &input, only_shapes)?;
    shared.classes = classes;
    if let (Head::Logits, Some(first), false) = (head, &mut first, only_shapes) {
        find_softmax_by_its_numbers(&mut shared, &stored, &input, first)?;
    }
    head::agree(shared.report.head, options.head)?;
    if let Some(first) = first {
        free_batch_size(&mut shared, &mut stored, &input, options.repairs.batch_size, first)?;
    }
    Ok((shared, stored))
}

pub(crate) fn refuse_unsupported(unsupported: &[Unsupported]) -> Result<()> {
    let Some(first) = unsupported.first() else { return Ok(()) };
    let error = Error::unsupported(&first.reason).at(&first.node);
    Err(match unsupported.len() {
        1 => error,
        n => error.help(format!("and {} more nodes; `cmira check --json` lists them all", n - 1)),
    })
}

/// Values that are the matrix of a convolution or linear layer, directly or through moves.
fn weight_matrices(ir: &Ir) -> std::collections::HashSet<ValueId> {
    let mut matrices = std::collections::HashSet::new();
    for node in ir.nodes.iter().rev() {
        let moved = node.outputs.iter().flatten().any(|o| matrices.contains(o));
        for (position, input) in node.inputs.iter().enumerate() {
            let is_matrix = match node.op.name {
                "Conv" | "ConvTranspose" => position == 1,
                "Gemm" | "MatMul" | "FusedMatMul" => position < 2,
                _ => position == 0 && moved,
            };
            if let (true, Some(id)) = (is_matrix, input) {
                matrices.insert(*id);
            }
        }
    }
    matrices
}

type Stored = (Vec<StoredInfo>, Vec<Tensor>, HashMap<ValueId, usize>, Vec<TensorInfo>);

/// Takes the constants out of the graph, trainable ones in file order.
fn store(ir: &mut Ir, roles: &BTreeMap<ValueId, Role>, matrices: &std::collections::HashSet<ValueId>) -> Stored {
    let (mut infos, mut stored, mut indices, mut frozen) = (Vec::new(), Vec::new(), HashMap::new(), Vec::new());
    let dequantises = |node: &&ir::IrNode| node.op.name == "DequantizeLinear";
    let quantised: HashSet<ValueId> =
        ir.nodes.iter().filter(dequantises).filter_map(|node| node.inputs.first().copied().flatten()).collect();
    for (&id, role) in roles {
        let Some(constant) = ir.values[id].constant.take() else { continue };
        if let Role::Frozen(reason) = role
            && (constant.origin != Origin::Folded || quantised.contains(&id))
        {
            frozen.push(TensorInfo { name: ir.values[id].name.clone(), shape: constant.tensor.size(), reason });
        }
        indices.insert(id, stored.len());
        infos.push(StoredInfo {
            name: ir.values[id].name.clone(),
            origin: constant.origin,
            trainable: *role == Role::Parameter,
            buffer: *role == Role::Buffer,
            is_weight_matrix: matrices.contains(&id) && constant.tensor.dim() >= 2,
            stays_on_host: stays_on_host(&constant.tensor),
        });
        stored.push(constant.tensor);
    }
    (infos, stored, indices, frozen)
}

/// Shapes, axes and small indices are read on the host, wherever the model is.
fn stays_on_host(tensor: &Tensor) -> bool {
    !is_float(tensor.kind()) && tensor.numel() <= 4096
}

fn describe(infos: &[StoredInfo], stored: &[Tensor], which: impl Fn(&StoredInfo) -> bool) -> Vec<TensorInfo> {
    let chosen = infos.iter().zip(stored).filter(|(info, _)| which(info));
    chosen.map(|(info, tensor)| TensorInfo { name: info.name.clone(), shape: tensor.size(), reason: "" }).collect()
}

/// What training changes is written anew at export; keeping the file's bytes as well would double the memory.
fn clear_payload(model: &mut ModelProto, infos: &[StoredInfo]) {
    let Some(graph) = model.graph.as_mut() else { return };
    for info in infos.iter().filter(|i| i.trainable || i.buffer) {
        if let Origin::Initializer(index) = info.origin
            && let Some(proto) = graph.initializer.get_mut(index)
        {
            proto.data_location = DataLocation::DEFAULT.into();
            proto.external_data = Vec::new();
            proto.raw_data = Vec::new();
            proto.float_data = Vec::new();
            proto.double_data = Vec::new();
            proto.int32_data = Vec::new();
        }
    }
}

/// Dimensions of a declared tensor; `None` for symbolic or non-positive ones.
fn static_dims(info: &ValueInfoProto) -> Vec<Option<i64>> {
    let Some(tensor) = info.type_.as_ref().filter(|t| t.has_tensor_type()).map(|t| t.tensor_type()) else { return Vec::new() };
    let Some(shape) = tensor.shape.as_ref() else { return Vec::new() };
    shape.dim.iter().map(|d| (d.has_dim_value() && d.dim_value() > 0).then(|| d.dim_value())).collect()
}

fn free_batch_size(
    shared: &mut Shared,
    stored: &mut Vec<Tensor>,
    input: &Input,
    repair: BatchSizeRepair,
    first: Trace,
) -> Result<()> {
    let Some(image) = input.known_image() else { return Ok(()) };
    let batch = input.batch.unwrap_or(1);
    if let (BatchSizeRepair::Keep, Some(batch)) = (repair, input.batch) {
        shared.fixed_batch = Some(batch);
        shared.report.repairs.push(format!("the batch size stays {batch}, as the adapter says; the model cannot be trained"));
        return Ok(());
    }
    let before = stored.len();
    match batch_size::repair(&mut shared.plan, stored, &image, batch, input, first)? {
        Outcome::Free => {}
        Outcome::Fixed(reason) => {
            shared.fixed_batch = Some(batch);
            shared.report.repairs.push(format!("{reason}; it is evaluated in pieces and cannot be trained"));
        }
        Outcome::Repaired(patches) => {
            let text =
                format!("batch size {batch} was baked into {} places of the graph; any batch size runs now", patches.len());
            shared.report.repairs.push(text);
            shared.patches = patches;
        }
    }
    // Targets and indices tried during the search are stored behind the file's own tensors.
    for (index, tensor) in stored.iter().enumerate().skip(before) {
        shared.stored.push(StoredInfo {
            name: format!("batch_free_constant.{index}"),
            origin: Origin::Folded,
            trainable: false,
            buffer: false,
            is_weight_matrix: false,
            stays_on_host: stays_on_host(tensor),
        });
    }
    Ok(())
}

/// Scores that are probabilities without a Softmax node at the end get their logarithm as logits, of which they are the softmax.
/// What the scores of the first images look like has to hold for others as well.
fn find_softmax_by_its_numbers(shared: &mut Shared, stored: &[Tensor], input: &Input, first: &mut Trace) -> Result<()> {
    let tolerance = if matches!(first.logits.kind(), Kind::Half | Kind::BFloat16) { 1e-2 } else { 1e-4 };
    let found = head::of_numbers(&first.logits, tolerance)?;
    let (false, Some(image)) = (found == Head::Logits, input.known_image()) else { return Ok(()) };
    let batch = input.batch.unwrap_or(1);
    let images = batch_size::random_images(&image, 4 * batch, Kind::Float, input.largest)?;
    for piece in 1..4 {
        // Of another size than the first ones, too: from -1 to 3.
        let images = images.f_narrow(0, piece * batch, batch)?.f_mul_scalar(4.0)?.f_sub_scalar(1.0)?.f_to_kind(input.kind)?;
        if head::of_numbers(&shared.plan.run(stored, &images, Mode::Eval, LOGITS)?, tolerance)? != found {
            return Ok(());
        }
    }
    shared.report.head = found;
    if shared.report.head == Head::Probabilities {
        shared.plan.take_logarithm()?;
        first.shapes.push(first.output.size());
    }
    if shared.report.head != Head::Logits {
        let text = format!("the scores are {} by their numbers, without a Softmax node at the end", shared.report.head);
        shared.report.repairs.push(text);
    }
    Ok(())
}

/// What the intermediate results of a graph may take when it is first run, whatever its images: a file of a few bytes can ask for any
/// amount.
const BYTES_OF_ANY_GRAPH: usize = 1 << 26;

/// The same for every number of its images. The widest classifiers in use hold some 40 numbers at once for each.
const BYTES_A_NUMBER: usize = 1024;

/// The same for every byte that the file stores: quantised weights are widened, others are transposed.
const BYTES_A_STORED_BYTE: usize = 8;

/// K, from a sketch of one batch of images where their size is known, and the sketch: a file can declare what it does not give.
fn classes(shared: &Shared, stored: &[Tensor], input: &Input, only_shapes: bool) -> Result<(usize, Option<Trace>)> {
    let output = shared.skeleton.graph.output.iter().find(|output| output.name == shared.report.scores);
    let declared = match output.map(static_dims).unwrap_or_default().as_slice() {
        [_, Some(classes)] => Some(*classes),
        _ => None,
    };
    let Some([c, h, w]) = input.known_image() else {
        let error = Error::unsupported("the file states neither the size of its images nor the number of its classes");
        let error = error.help("give input.height and input.width in an adapter file");
        return declared.and_then(|classes| usize::try_from(classes).ok()).map(|classes| (classes, None)).ok_or(error);
    };
    let images = batch_size::random_images(&[c, h, w], input.batch.unwrap_or(1), input.kind, input.largest)?;
    let numbers =
        usize::try_from(input.batch.unwrap_or(1).saturating_mul(c).saturating_mul(h).saturating_mul(w)).unwrap_or(usize::MAX);
    let kept = stored.iter().map(|tensor| tensor.numel().saturating_mul(tensor.kind().elt_size_in_bytes())).sum::<usize>();
    let budget = numbers.saturating_mul(BYTES_A_NUMBER).saturating_add(BYTES_OF_ANY_GRAPH);
    let budget = budget.saturating_add(kept.saturating_mul(BYTES_A_STORED_BYTE));
    // Activations take four bytes a number.
    let elements = i64::try_from(budget / 4).unwrap_or(i64::MAX).min(1 << 31);
    let trace = with_at_most(elements, || shared.plan.trace(stored, &images, budget, only_shapes));
    // Memory that is not there for the first images of a file is more than it may ask for.
    let trace = trace.map_err(|e| if e.kind() == ErrorKind::Unexpected { e.with_kind(ErrorKind::Malformed) } else { e })?;
    let shape = trace.logits.size();
    let is_row = shape.len() >= 2 && shape[0] == images.size()[0] && shape[2..].iter().all(|&size| size == 1);
    let classes = if is_row { usize::try_from(shape[1]).unwrap_or(0) } else { 0 };
    if classes == 0 || !is_float(trace.logits.kind()) {
        let given = format!("{:?} numbers of shape {shape:?}", trace.logits.kind());
        return Err(Error::unsupported(format!("the output has {given} where a classifier gives scores [images, classes]")));
    }
    match declared {
        Some(declared) if i64::try_from(classes) != Ok(declared) => {
            Err(Error::malformed(format!("the output is declared to have {declared} classes and has {classes}")))
        }
        _ => Ok((classes, Some(trace))),
    }
}

#[cfg(test)]
mod tests;
