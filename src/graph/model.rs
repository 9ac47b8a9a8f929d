//! [`Model`]: what trainers, unlearners and the attack see.

use std::path::Path;
use std::sync::Arc;

use crate::error::{Error, Place, Result};
use crate::graph::Mode;
use crate::graph::evaluator::{Evaluator, Runner, channels_last, prefers_channels_last};
use crate::graph::export;
use crate::graph::import::{self, ImportReport, Shared};
use crate::graph::options::{BatchNormRepair, ImportOptions};
use crate::graph::passes::batch_norm::{self, Finding};
use crate::graph::plan::{LOGITS, OUTPUT};
use crate::graph::precision::{Computing, Precision};
use crate::graph::{Lowered, lower};
use crate::onnx::proto::ModelProto;
use crate::onnx::{self, Limits, OnnxFile};
use crate::tensor::{Device, Tensor, deep_copy, no_grad, write_safetensors};

/// A trainable leaf of a [`Model`].
pub struct Param {
    /// The tensor's name in the ONNX file.
    pub name: String,
    /// The leaf; it requires gradients.
    pub tensor: Tensor,
    /// Whether this is a matrix of weights (a convolution's or linear layer's), not a bias, scale or embedding.
    pub is_weight_matrix: bool,
}

/// A copy of everything that training changes: parameters and running statistics, by name.
pub struct State(pub Vec<(String, Tensor)>);

/// Stands between stored parameters and the forward pass: spectral normalisation divides every weight by its norm here.
pub trait Parametrization: Send {
    /// The tensors to use in place of the parameters, in the same order. Gradients flow through this computation.
    fn apply(&mut self, params: &[Param], mode: Mode) -> Result<Vec<Tensor>>;

    /// Forgets what earlier passes left, so that what follows depends on the parameters alone. Work that was interrupted and
    /// resumed then gives the same numbers as work that was not.
    fn reset(&mut self);
}

/// An image classifier: logits out of images, with trainable parameters, wherever it came from.
pub struct Model {
    pub(crate) shared: Arc<Shared>,
    /// Parameters, running statistics and constants, as the plan numbers them.
    pub(crate) stored: Vec<Tensor>,
    /// Handles to the trainable ones among `stored`.
    params: Vec<Param>,
    device: Device,
    precision: Precision,
    parametrization: Option<std::cell::RefCell<Box<dyn Parametrization>>>,
}

impl Model {
    /// Reads, checks and compiles an ONNX file with default limits and options.
    ///
    /// # Errors
    /// Malformed or Unsupported, naming file and node.
    pub fn open(path: &Path, device: Device) -> Result<Model> {
        let file = onnx::read(path, &Limits::default())?;
        Model::import(file, &ImportOptions::default(), device)
    }

    /// Compiles a checked file.
    ///
    /// # Errors
    /// Malformed or Unsupported, naming file and node.
    pub fn import(file: OnnxFile, options: &ImportOptions, device: Device) -> Result<Model> {
        Model::import_lowered(lower(file)?, options, device)
    }

    /// Compiles a file that is [lowered](crate::graph::lower) already.
    ///
    /// # Errors
    /// Malformed or Unsupported, naming file and node.
    pub fn import_lowered(lowered: Lowered, options: &ImportOptions, device: Device) -> Result<Model> {
        let place = lowered.file.path.clone();
        let (shared, stored) = import::import(lowered, options).at(|| place.display().to_string())?;
        Model::assemble(Arc::new(shared), stored, device)
    }

    /// Compiles a model that is already in memory; `name` stands for the file in errors.
    pub fn from_proto(name: &str, proto: ModelProto, device: Device) -> Result<Model> {
        Model::import(onnx::from_model(name, proto, &Limits::default())?, &ImportOptions::default(), device)
    }

    fn assemble(shared: Arc<Shared>, stored: Vec<Tensor>, device: Device) -> Result<Model> {
        let mut placed = Vec::with_capacity(stored.len());
        for (tensor, info) in stored.into_iter().zip(&shared.stored) {
            // Shapes, axes and indices stay on the host, where they are read.
            let tensor = if info.stays_on_host { tensor } else { tensor.f_to_device(device)? };
            placed.push(if info.trainable { tensor.f_detach()?.f_set_requires_grad(true)? } else { tensor });
        }
        let params = shared
            .params
            .iter()
            .map(|&index| Param {
                name: shared.stored[index].name.clone(),
                tensor: placed[index].shallow_clone(),
                is_weight_matrix: shared.stored[index].is_weight_matrix,
            })
            .collect();
        Ok(Model { shared, stored: placed, params, device, precision: Precision::Fp32, parametrization: None })
    }

    /// Logits `[N, K]` of images `[N, C, H, W]` (float, already normalised), on the model's device. Any `N >= 1` runs.
    ///
    /// # Errors
    /// Unsupported in [`Mode::Train`] when the file's batch size could not be freed; else what a node raises, with its name.
    pub fn forward(&self, images: &Tensor, mode: Mode) -> Result<Tensor> {
        self.forward_in(self.precision, images, mode)
    }

    /// As [`forward`](Self::forward), in a precision that may be another than the model's own.
    ///
    /// # Errors
    /// As [`forward`](Self::forward).
    pub fn forward_in(&self, precision: Precision, images: &Tensor, mode: Mode) -> Result<Tensor> {
        flatten_logits(self.run(images, mode, LOGITS, precision)?)
    }

    /// The file's own first output in [`Mode::Eval`], as ONNX Runtime would give it: probabilities where the file ends with a softmax.
    pub fn output(&self, images: &Tensor) -> Result<Tensor> {
        self.run(images, Mode::Eval, OUTPUT, Precision::Fp32)
    }

    fn run(&self, images: &Tensor, mode: Mode, result: usize, precision: Precision) -> Result<Tensor> {
        Runner::new(self, mode, precision)?.run(images, result)
    }

    /// Logits of many batches by the weights as they are now, in [`Mode::Eval`] and without gradients: what depends on the weights alone
    /// is done once.
    ///
    /// # Errors
    /// Unexpected, when libtorch fails.
    pub fn evaluator(&self, precision: Precision) -> Result<Evaluator<'_>> {
        Evaluator::new(self, precision)
    }

    /// The tensors as a pass reads them.
    pub(crate) fn effective(&self, mode: Mode) -> Result<Vec<Tensor>> {
        let mut tensors: Vec<Tensor> = self.stored.iter().map(Tensor::shallow_clone).collect();
        let Some(parametrization) = &self.parametrization else { return Ok(tensors) };
        let replaced = parametrization.borrow_mut().apply(&self.params, mode)?;
        for (&index, tensor) in self.shared.params.iter().zip(replaced) {
            tensors[index] = tensor;
        }
        Ok(tensors)
    }

    /// Runs the graph as far as the logits need it, and shows every value by its name in the file.
    pub(crate) fn observe(&self, images: &Tensor, mode: Mode, see: &mut dyn FnMut(&str, &Tensor) -> Result<()>) -> Result<()> {
        self.run_watched(images, mode, LOGITS, &mut |name, _, value| see(name, value)).map(drop)
    }

    /// As [`output`](Self::output) of as many images as the file takes at once; every value is shown by its name in the file and its
    /// place among its node's outputs, and may be exchanged before the next node reads it.
    pub(crate) fn output_led(
        &self,
        images: &Tensor,
        lead: &mut dyn FnMut(&str, usize, &mut Tensor) -> Result<()>,
    ) -> Result<Tensor> {
        self.run_watched(images, Mode::Eval, OUTPUT, lead)
    }

    fn run_watched(
        &self,
        images: &Tensor,
        mode: Mode,
        result: usize,
        see: &mut dyn FnMut(&str, usize, &mut Tensor) -> Result<()>,
    ) -> Result<Tensor> {
        let images = images.f_to_kind(self.shared.input_kind)?;
        let graph = self.shared.skeleton.graph.get_or_default();
        self.shared.plan.run_watched(&self.stored, &images, mode, result, &mut |step, outputs| {
            let names = graph.node.get(step.place).map_or(&[][..], |node| node.output.as_slice());
            names.iter().zip(outputs).enumerate().try_for_each(|(position, (name, value))| see(name, position, value))
        })
    }

    /// A model of a changed graph, which stands for the same file.
    pub(crate) fn renewed(&self, proto: ModelProto) -> Result<Model> {
        let file = onnx::from_model("the repaired model", proto, &Limits::default())?;
        let mut model = Model::import(file, &self.shared.options, self.device)?;
        model = model.computing_in(self.precision)?;
        let shared = Arc::get_mut(&mut model.shared).ok_or_else(|| Error::unexpected("a new model has one owner"))?;
        shared.sha256.clone_from(&self.shared.sha256);
        shared.report.operators.clone_from(&self.shared.report.operators);
        shared.report.whole_numbers = self.shared.report.whole_numbers;
        let again = std::mem::replace(&mut shared.report.repairs, self.shared.report.repairs.clone());
        shared.report.repairs.extend(again.into_iter().filter(|text| !self.shared.report.repairs.contains(text)));
        Ok(model)
    }

    /// Puts batch normalisation back where the exporter folded it into other weights, if that is wanted and there are such places;
    /// see [`BatchNormRepair`]. Its statistics are measured on `batches`, images `[N, C, H, W]` as the model takes them. Outputs in
    /// evaluation stay what they are, up to rounding.
    ///
    /// # Errors
    /// Unsupported, when it was asked for and cannot be done; what the model raises on the images.
    pub fn with_batch_norm(self, batches: &mut dyn Iterator<Item = Result<Tensor>>) -> Result<Model> {
        let wanted = match (self.shared.options.repairs.batch_norm, self.folded_batch_norm()) {
            (BatchNormRepair::Keep, _) => false,
            (BatchNormRepair::Reinsert, _) => true,
            (BatchNormRepair::Auto, finding) => matches!(finding, Finding::Likely(_)),
        };
        // A model that cannot be trained needs no batch statistics.
        if !wanted || self.shared.fixed_batch.is_some() {
            return Ok(self);
        }
        let (mut model, count, left) = batch_norm::reinsert(&self, batches)?;
        let shared = Arc::get_mut(&mut model.shared).ok_or_else(|| Error::unexpected("a new model has one owner"))?;
        let mut text = format!("batch normalisation was put back at {count} places, with statistics of the given images");
        if left > 0 {
            text.push_str(&format!("; {left} places whose maps are single points were left as they are"));
        }
        shared.report.repairs.push(text);
        Ok(model)
    }

    /// What is known of batch normalisation that the exporter folded away.
    pub(crate) fn folded_batch_norm(&self) -> Finding {
        batch_norm::find(&self.shared.skeleton)
    }

    /// The trainable parameters, in file order. They are handles: an in-place update changes the model.
    pub fn params(&self) -> &[Param] {
        &self.params
    }

    /// The tensors that a forward pass in evaluation uses in place of the parameters, with whether each is a weight matrix.
    pub fn effective_params(&self) -> Result<Vec<(bool, Tensor)>> {
        let _guard = no_grad();
        let tensors = match &self.parametrization {
            Some(parametrization) => parametrization.borrow_mut().apply(&self.params, Mode::Eval)?,
            None => self.params.iter().map(|p| p.tensor.shallow_clone()).collect(),
        };
        Ok(self.params.iter().map(|p| p.is_weight_matrix).zip(tensors).collect())
    }

    /// Names and handles of the running statistics, in file order.
    pub fn buffers(&self) -> impl Iterator<Item = (&str, &Tensor)> {
        self.shared
            .stored
            .iter()
            .zip(&self.stored)
            .filter(|(info, _)| info.buffer)
            .map(|(info, tensor)| (info.name.as_str(), tensor))
    }

    /// A deep copy of parameters and running statistics.
    pub fn state(&self) -> Result<State> {
        let changing = self.shared.stored.iter().zip(&self.stored).filter(|(info, _)| info.trainable || info.buffer);
        Ok(State(changing.map(|(info, tensor)| Ok((info.name.clone(), deep_copy(tensor)?))).collect::<Result<_>>()?))
    }

    /// Copies a state back in.
    ///
    /// # Errors
    /// Data, when names or shapes differ from this model's.
    pub fn load_state(&self, state: &State) -> Result<()> {
        let _guard = no_grad();
        let changing: Vec<_> =
            self.shared.stored.iter().zip(&self.stored).filter(|(info, _)| info.trainable || info.buffer).collect();
        if changing.len() != state.0.len() {
            return Err(Error::data(format!("the state holds {} tensors where the model has {}", state.0.len(), changing.len())));
        }
        for ((info, tensor), (name, value)) in changing.into_iter().zip(&state.0) {
            if *name != info.name || value.size() != tensor.size() {
                return Err(Error::data(format!("the state's '{name}' does not belong to the model's '{}'", info.name)));
            }
            tensor.shallow_clone().f_copy_(value)?;
        }
        Ok(())
    }

    /// A model with the same plan and its own copy of parameters and running statistics, without a parametrization.
    pub fn duplicate(&self) -> Result<Model> {
        let stored = self.shared.stored.iter().zip(&self.stored);
        let stored = stored
            .map(|(i, t)| if i.trainable || i.buffer { deep_copy(t) } else { Ok(t.shallow_clone()) })
            .collect::<Result<_>>()?;
        // Copies are laid out as their originals.
        let mut copy = Model::assemble(self.shared.clone(), stored, self.device)?;
        copy.precision = self.precision;
        Ok(copy)
    }

    /// Sets what [`forward`](Self::forward) computes in. The file's own output, observations and gradients by example stay as the file says.
    ///
    /// # Errors
    /// Unexpected, when libtorch cannot allocate.
    pub fn computing_in(mut self, precision: Precision) -> Result<Model> {
        self.precision = precision;
        // What is known of the parameters is known in the order that they had in memory.
        self.reset_parametrization();
        if prefers_channels_last(self.device, precision) {
            // Filters lie in memory as the images do: so do their gradients then, and nothing has to be turned around in a step.
            for (&index, param) in self.shared.params.iter().zip(&mut self.params) {
                if param.tensor.dim() == 4 {
                    param.tensor = channels_last(&param.tensor.f_detach()?)?.f_set_requires_grad(true)?;
                    self.stored[index] = param.tensor.shallow_clone();
                }
            }
        }
        Ok(self)
    }

    /// Where and in what [`forward`](Self::forward) computes.
    pub fn computing(&self) -> Computing {
        Computing { device: self.device, precision: self.precision }
    }

    /// Puts a computation between the stored parameters and the forward pass.
    pub fn set_parametrization(&mut self, parametrization: Box<dyn Parametrization>) {
        self.parametrization = Some(std::cell::RefCell::new(parametrization));
    }

    /// Whether there is one.
    pub(crate) fn has_parametrization(&self) -> bool {
        self.parametrization.is_some()
    }

    /// Resets the parametrization, if there is one; see [`Parametrization::reset`].
    pub fn reset_parametrization(&self) {
        if let Some(parametrization) = &self.parametrization {
            parametrization.borrow_mut().reset();
        }
    }

    /// The graph with the present values of parameters and running statistics; a parametrization is applied and gone.
    pub fn to_onnx(&self) -> Result<ModelProto> {
        let _guard = no_grad();
        let mut values: Vec<Tensor> = self.stored.iter().map(Tensor::shallow_clone).collect();
        if let Some(parametrization) = &self.parametrization {
            let replaced = parametrization.borrow_mut().apply(&self.params, Mode::Eval)?;
            for (&index, tensor) in self.shared.params.iter().zip(replaced) {
                values[index] = tensor;
            }
        }
        export::export(&self.shared, &values)
    }

    /// Writes the graph with the present values, its tensors in a file beside it if the model came so, and `notes` in its metadata.
    ///
    /// # Errors
    /// Unsupported, when the model is too large for one file; Unexpected, where the disk does not cooperate.
    pub fn save(&self, path: &Path, notes: &[(&str, &str)]) -> Result<()> {
        let mut proto = self.to_onnx()?;
        onnx::annotate(&mut proto, notes);
        if self.shared.external_data { onnx::save_with_data(proto, path) } else { onnx::save(&proto, path) }
    }

    /// Writes parameters and running statistics alone, by their names, as safetensors.
    ///
    /// # Errors
    /// Unexpected, where the disk does not cooperate.
    pub fn save_weights(&self, path: &Path) -> Result<()> {
        write_safetensors(path, &self.state()?.0)
    }

    /// The number of classes K.
    pub fn classes(&self) -> usize {
        self.shared.classes
    }

    /// `[C, H, W]` of the images that the file states; `None` where it leaves a dimension open.
    pub fn image_shape(&self) -> [Option<i64>; 3] {
        self.shared.image
    }

    /// The batch size that the graph is bound to, if it could not be freed: such a model can be evaluated, not trained.
    pub fn fixed_batch(&self) -> Option<i64> {
        self.shared.fixed_batch
    }

    /// Where the parameters live.
    pub fn device(&self) -> Device {
        self.device
    }

    /// What the import found and did.
    pub fn report(&self) -> &ImportReport {
        &self.shared.report
    }

    /// SHA-256 of the file that the model was read from.
    pub fn sha256(&self) -> &str {
        &self.shared.sha256
    }
}

/// `[N, K, 1, 1]`, which fully convolutional heads give, as `[N, K]`.
pub(crate) fn flatten_logits(logits: Tensor) -> Result<Tensor> {
    let shape = logits.size();
    if shape.len() > 2 && shape[2..].iter().all(|&d| d == 1) {
        return Ok(logits.f_flatten(1, -1)?);
    }
    if shape.len() == 2 {
        return Ok(logits);
    }
    Err(Error::unsupported(format!("the output has shape {shape:?} where a classifier gives [images, classes]")))
}
