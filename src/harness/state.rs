//! What an interrupted audit leaves behind, so that the same command goes on where it stopped.

use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};
use std::time::Instant;

use serde::{Deserialize, Serialize};

use crate::attack::sets::Predictions;
use crate::attack::{Course, Iteration};
use crate::error::{Error, Place, Result};
use crate::files;
use crate::graph::{Model, State};
use crate::tensor::{Tensor, write_safetensors};

/// The stored state of one audit: a folder inside its results.
pub struct Store {
    folder: PathBuf,
    opened: Instant,
    /// Seconds that earlier runs took.
    earlier: f64,
    /// Held until the audit ends, however it ends.
    _lock: File,
}

/// What two audits do not have in common, in words.
fn other(found: &str, identity: &str) -> String {
    let differs = |line: &&str| !found.lines().any(|known| known == *line);
    let names = identity.lines().filter(differs).filter_map(|line| line.split_once(": ")).map(|(name, _)| name);
    let names: Vec<&str> = names.collect();
    // A grid's step has one hash for all.
    if names.is_empty() { "other inputs".to_string() } else { format!("other {}", names.join(", ")) }
}

/// The file of the time that the audit has taken.
const TIME: &str = "seconds.txt";

/// What is stored beside the tensors.
#[derive(Debug, Serialize, Deserialize)]
struct StoredCourse {
    iterations: Vec<Iteration>,
    before: StoredPredictions,
    pretrained: StoredPredictions,
    attack: StoredPredictions,
    unlearned: StoredPredictions,
    best: StoredPredictions,
}

#[derive(Debug, Serialize, Deserialize)]
struct StoredPredictions {
    classes: Vec<i64>,
    confidences: Vec<f32>,
}

impl StoredPredictions {
    fn of(predictions: &Predictions) -> StoredPredictions {
        StoredPredictions { classes: predictions.classes.clone(), confidences: predictions.confidences.clone() }
    }

    fn back(self) -> Predictions {
        Predictions { classes: self.classes, confidences: self.confidences }
    }
}

impl Store {
    /// Opens the state folder of an audit. `identity` says what the audit is of (settings, model, sets): a folder that holds the
    /// state of another audit is refused, so that results never mix.
    ///
    /// # Errors
    /// Usage, when the folder belongs to another audit, or one is at work in it.
    pub fn open(results: &Path, identity: &str) -> Result<Store> {
        let folder = results.join("state");
        std::fs::create_dir_all(&folder).map_err(|e| Error::io(&folder, &e))?;
        let path = folder.join("lock");
        let lock = File::options().create(true).truncate(false).write(true).open(&path).map_err(|e| Error::io(&path, &e))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let error = Error::usage("another audit is at work in this folder").at(results.display());
                return Err(error.help("wait for it to end, or choose another --out"));
            }
            Err(TryLockError::Error(error)) => return Err(Error::io(&path, &error)),
        }
        let file = folder.join("identity.txt");
        match std::fs::read_to_string(&file) {
            Ok(found) if found == identity => {}
            Ok(found) => {
                let error = Error::usage(format!("this folder holds an audit that was begun with {}", other(&found, identity)));
                let help = "give exactly what the earlier command was given to go on with it, or choose another --out";
                return Err(error.at(results.display()).help(help));
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => files::write(&file, identity.as_bytes())?,
            Err(error) => return Err(Error::io(&file, &error)),
        }
        // A time that cannot be read costs a number in the report, not the audit.
        let earlier = std::fs::read_to_string(folder.join(TIME)).ok().and_then(|text| text.trim().parse::<f64>().ok());
        let earlier = earlier.filter(|seconds| seconds.is_finite() && *seconds >= 0.0).unwrap_or(0.0);
        Ok(Store { folder, opened: Instant::now(), earlier, _lock: lock })
    }

    /// How long the audit has taken in all its runs so far, in seconds.
    pub fn seconds(&self) -> f64 {
        self.earlier + self.opened.elapsed().as_secs_f64()
    }

    fn keep_time(&self) -> Result<()> {
        files::write(&self.folder.join(TIME), format!("{:.1}\n", self.seconds()).as_bytes())
    }

    /// Where a training run within the audit keeps its checkpoint.
    pub fn checkpoint(&self, name: &str) -> PathBuf {
        self.folder.join(format!("{name}.checkpoint.safetensors"))
    }

    /// Stores a model's parameters and running statistics.
    pub fn save_model(&self, name: &str, model: &Model) -> Result<()> {
        write_safetensors(&self.model_file(name), &model.state()?.0)
    }

    /// Brings a stored model back into `model`; false if there is none.
    pub fn load_model(&self, name: &str, model: &Model) -> Result<bool> {
        let file = self.model_file(name);
        if !file.exists() {
            return Ok(false);
        }
        let mut tensors = read_tensors(&file)?;
        let order: Vec<String> = model.state()?.0.into_iter().map(|(name, _)| name).collect();
        let mut state = Vec::with_capacity(order.len());
        for name in order {
            let position = tensors.iter().position(|(n, _)| *n == name);
            let position = position.ok_or_else(|| Error::data(format!("'{name}' is missing")).at(file.display()))?;
            state.push(tensors.swap_remove(position));
        }
        model.load_state(&State(state)).at(|| file.display().to_string())?;
        Ok(true)
    }

    /// Copies a model from another audit's state, unless this one has it already or the other has none.
    pub fn adopt_model(&self, name: &str, results: &Path) -> Result<()> {
        let (own, other) = (self.model_file(name), results.join("state").join(format!("{name}.safetensors")));
        if own.exists() || !other.exists() {
            return Ok(());
        }
        let bytes = std::fs::read(&other).map_err(|e| Error::io(&other, &e))?;
        files::write(&own, &bytes)
    }

    /// Stores the course of a variant with both models: one file, so that they always belong together.
    pub fn save_course(&self, variant: &str, course: &Course, attack: &Model, unlearned: &Model) -> Result<()> {
        let number = course.iterations.len();
        self.keep_time()?;
        self.save_model(&format!("{variant}.{number}.attack"), attack)?;
        self.save_model(&format!("{variant}.{number}.unlearned"), unlearned)?;
        let stored = StoredCourse {
            iterations: course.iterations.clone(),
            before: StoredPredictions::of(&course.before),
            pretrained: StoredPredictions::of(&course.pretrained),
            attack: StoredPredictions::of(&course.attack),
            unlearned: StoredPredictions::of(&course.unlearned),
            best: StoredPredictions::of(&course.best),
        };
        let json = serde_json::to_vec(&stored).map_err(Error::unexpected)?;
        files::write(&self.course_file(variant), &json)?;
        // The course now names these models; the ones before it are of no more use.
        for old in ["attack", "unlearned"].map(|model| self.model_file(&format!("{variant}.{}.{model}", number - 1))) {
            if old.exists() {
                std::fs::remove_file(&old).map_err(|e| Error::io(&old, &e))?;
            }
        }
        Ok(())
    }

    /// Brings a variant's course and models back; `None` if it has not begun.
    pub fn load_course(&self, variant: &str, attack: &Model, unlearned: &Model) -> Result<Option<Course>> {
        let file = self.course_file(variant);
        let bytes = match std::fs::read(&file) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(Error::io(&file, &error)),
        };
        let stored: StoredCourse = serde_json::from_slice(&bytes).map_err(|e| {
            Error::data(format!("is damaged: {e}")).at(file.display()).help("delete the results folder and start again")
        })?;
        let number = stored.iterations.len();
        for (name, model) in [("attack", attack), ("unlearned", unlearned)] {
            if !self.load_model(&format!("{variant}.{number}.{name}"), model)? {
                return Err(Error::data(format!("the {name} model of iteration {number} is missing")).at(self.folder.display()));
            }
        }
        Ok(Some(Course {
            iterations: stored.iterations,
            before: stored.before.back(),
            pretrained: stored.pretrained.back(),
            attack: stored.attack.back(),
            unlearned: stored.unlearned.back(),
            best: stored.best.back(),
            stop: None,
        }))
    }

    fn model_file(&self, name: &str) -> PathBuf {
        self.folder.join(format!("{name}.safetensors"))
    }

    fn course_file(&self, variant: &str) -> PathBuf {
        self.folder.join(format!("{variant}.course.json"))
    }
}

impl Drop for Store {
    /// However the audit ends, what it took is counted.
    fn drop(&mut self) {
        // A time that cannot be stored costs a number in the report, and hides no error.
        let _ = self.keep_time();
    }
}

fn read_tensors(path: &Path) -> Result<Vec<(String, Tensor)>> {
    Tensor::read_safetensors(path)
        .map_err(|e| Error::data(e).at(path.display()).help("delete the results folder and start again"))
}
