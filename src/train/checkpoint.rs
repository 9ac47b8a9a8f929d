//! Half-finished trainings on disk: one safetensors file with parameters, running statistics, momentum and the log.
//!
//! Random numbers depend on the seed and the epoch alone, so the number of finished epochs is all that has to be kept of them.

use std::path::{Path, PathBuf};

use super::control::{EpochRecord, History};
use super::network::Network;
use super::optim::Sgd;
use super::settings::TrainSettings;
use crate::error::{Error, Place, Result};
use crate::graph::State;
use crate::tensor::{Device, Tensor, to_f64s, write_safetensors};

const MODEL: &str = "model/";
const MOMENTUM: &str = "momentum/";
const LOSSES: &str = "log/loss";
const RATES: &str = "log/learning_rate";
const IDENTITY: &str = "identity";

/// Where and how often a training is saved, and what a saved one must agree with to be taken up again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checkpoint {
    /// The file. It stays when training is done, and then holds the finished network; who made it may remove it.
    pub path: PathBuf,
    /// Save after every so many epochs, and after the last; 0 saves only after the last and when interrupted.
    pub every: usize,
    /// Whatever the training depends on beside its settings, such as a hash of the images and the start model; may be empty.
    pub fingerprint: String,
}

/// A training between two epochs.
pub(super) struct Snapshot {
    state: State,
    velocities: Vec<Tensor>,
    history: History,
}

impl Snapshot {
    /// A deep copy of everything that the next epoch depends on.
    pub(super) fn take(network: &dyn Network, optimiser: &Sgd, history: &History) -> Result<Self> {
        let copy = |tensor: &Tensor| -> Result<Tensor> { Ok(tensor.f_detach_copy()?) };
        Ok(Snapshot {
            state: network.state()?,
            velocities: optimiser.velocities().iter().map(copy).collect::<Result<_>>()?,
            history: history.clone(),
        })
    }

    /// Puts everything back where it was.
    pub(super) fn restore(self, network: &dyn Network, optimiser: &mut Sgd) -> Result<History> {
        network.load_state(&self.state)?;
        optimiser.load_velocities(&self.velocities)?;
        Ok(self.history)
    }
}

/// What a saved training must agree with.
pub(super) fn identity(checkpoint: &Checkpoint, settings: &TrainSettings, images: usize) -> Result<String> {
    let settings = serde_json::to_string(settings).map_err(Error::unexpected)?;
    Ok(format!("{settings} {images} {}", checkpoint.fingerprint))
}

/// Writes a snapshot beside the file and moves it into place, so that the file is never half written.
pub(super) fn save(path: &Path, identity: &str, network: &dyn Network, snapshot: &Snapshot) -> Result<()> {
    let mut tensors = Vec::new();
    let host = |tensor: &Tensor| -> Result<Tensor> { Ok(tensor.f_detach()?.f_to_device(Device::Cpu)?.f_contiguous()?) };
    for (name, tensor) in &snapshot.state.0 {
        tensors.push((format!("{MODEL}{name}"), host(tensor)?));
    }
    for (param, velocity) in network.params().iter().zip(&snapshot.velocities) {
        tensors.push((format!("{MOMENTUM}{}", param.name), host(velocity)?));
    }
    let log = |value: fn(&EpochRecord) -> f64| -> Result<Tensor> {
        Ok(Tensor::f_from_slice(&snapshot.history.epochs.iter().map(value).collect::<Vec<f64>>())?)
    };
    tensors.push((LOSSES.to_string(), log(|record| record.loss)?));
    tensors.push((RATES.to_string(), log(|record| record.learning_rate)?));
    tensors.push((IDENTITY.to_string(), Tensor::f_from_slice(identity.as_bytes())?));

    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    std::fs::create_dir_all(folder).map_err(|error| Error::io(folder, &error))?;
    write_safetensors(path, &tensors)
}

/// Reads a snapshot, if there is one.
///
/// # Errors
/// Usage, when it is of another training; Data, when the file is damaged or of another network.
pub(super) fn load(path: &Path, identity: &str, network: &dyn Network, optimiser: &Sgd) -> Result<Option<Snapshot>> {
    let here = || path.display();
    if !path.try_exists().map_err(|error| Error::io(path, &error))? {
        return Ok(None);
    }
    let damaged = |reason: String| Error::data(reason).help("remove the file to start anew");
    let tensors = Tensor::read_safetensors(path).map_err(|error| damaged(error.to_string())).at(here)?;
    let mut tensors: std::collections::HashMap<String, Tensor> = tensors.into_iter().collect();
    let mut take = |name: &str| tensors.remove(name).ok_or_else(|| damaged(format!("there is no '{name}' in it")).at(here()));

    if identity_of(&take(IDENTITY)?)? != identity.as_bytes() {
        return Err(Error::usage("the checkpoint is of a training with other settings, images or start model")
            .at(here())
            .help("remove the file to start anew, or choose another folder"));
    }
    let (losses, rates) = (to_f64s(&take(LOSSES)?)?, to_f64s(&take(RATES)?)?);
    let epochs = (1..).zip(losses.into_iter().zip(rates));
    let epochs = epochs.map(|(epoch, (loss, learning_rate))| EpochRecord { epoch, loss, learning_rate }).collect();
    // The network itself says what belongs to it, and in which order.
    let mut state = network.state()?;
    for (name, tensor) in &mut state.0 {
        *tensor = take(&format!("{MODEL}{name}"))?;
    }
    let velocities = network.params().iter().zip(optimiser.velocities());
    let velocities = velocities.map(|(param, _)| take(&format!("{MOMENTUM}{}", param.name))).collect::<Result<_>>()?;
    Ok(Some(Snapshot { state, velocities, history: History { epochs } }))
}

fn identity_of(tensor: &Tensor) -> Result<Vec<u8>> {
    let tensor = tensor.f_to_kind(crate::tensor::Kind::Uint8)?.f_contiguous()?;
    let mut bytes = vec![0; tensor.numel()];
    tensor.f_copy_data(&mut bytes, tensor.numel())?;
    Ok(bytes)
}
