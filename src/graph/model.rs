//! [`Model`]: what trainers, unlearners and the attack see.

use std::path::Path;

use crate::error::{Error, Result};
use crate::graph::Mode;
use crate::onnx::proto::ModelProto;
use crate::tensor::{Device, Tensor};

/// A trainable leaf of a [`Model`].
pub struct Param {
    /// The initializer's name in the ONNX file.
    pub name: String,
    /// The leaf; it requires gradients.
    pub tensor: Tensor,
}

/// A copy of everything that training changes: parameters and running statistics, by name.
pub struct State(pub Vec<(String, Tensor)>);

/// An image classifier: logits out of images, with trainable parameters, wherever it came from.
pub struct Model {
    device: Device,
}

impl Model {
    /// Reads, checks and compiles an ONNX file with default limits.
    pub fn open(_path: &Path, _device: Device) -> Result<Model> {
        Err(Error::unexpected("stub"))
    }

    /// Compiles a model that is already in memory; `name` stands for the file in errors.
    pub fn from_proto(_name: &str, _proto: ModelProto, _device: Device) -> Result<Model> {
        Err(Error::unexpected("stub"))
    }

    /// Logits `[N, K]` of images `[N, C, H, W]` (float, already normalised), on the model's device. Any `N >= 1` runs.
    pub fn forward(&self, _images: &Tensor, _mode: Mode) -> Result<Tensor> {
        Err(Error::unexpected("stub"))
    }

    /// The trainable parameters, in file order. They are handles: an in-place update changes the model.
    pub fn params(&self) -> &[Param] {
        &[]
    }

    /// A deep copy of parameters and running statistics.
    pub fn state(&self) -> Result<State> {
        Err(Error::unexpected("stub"))
    }

    /// Copies a state back in.
    ///
    /// # Errors
    /// Data, when names or shapes differ from this model's.
    pub fn load_state(&self, _state: &State) -> Result<()> {
        Err(Error::unexpected("stub"))
    }

    /// A model with the same plan and its own copy of parameters and running statistics.
    pub fn duplicate(&self) -> Result<Model> {
        Err(Error::unexpected("stub"))
    }

    /// The graph with the present values of parameters and running statistics.
    pub fn to_onnx(&self) -> Result<ModelProto> {
        Err(Error::unexpected("stub"))
    }

    /// The number of classes K.
    pub fn classes(&self) -> usize {
        0
    }

    /// Where the parameters live.
    pub fn device(&self) -> Device {
        self.device
    }
}
