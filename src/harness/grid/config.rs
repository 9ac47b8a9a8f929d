//! `harness.yaml`: the paper's grid, every setting visible.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::attack::AttackSettings;
use crate::data::DataSet;
use crate::data::adapter::Adapter;
use crate::data::draw::DrawOptions;
use crate::error::{Error, Result};
use crate::nets::Backbone;
use crate::train::{Schedule, TrainSettings};
use crate::unlearn::{self, Method, Setting, UnlearnSettings};
use crate::yaml;

/// The whole file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Harness {
    /// Every cell is run once for each seed: of splits, initial weights, order and augmentation.
    pub seeds: Vec<u64>,
    /// The data sets.
    pub datasets: Vec<DatasetEntry>,
    /// The architectures, of models and attack models alike.
    pub backbones: Vec<Backbone>,
    /// The unlearning methods: RT, FT, GA, FF, IU, WP. RT is the strictest control of the others.
    pub methods: Vec<String>,
    /// How original models are trained.
    pub train: PartialTrain,
    /// What differs from the paper's settings for ResNet18 on CIFAR-10. Entries that are for a cell apply from top to bottom: the later wins.
    pub unlearn: Vec<UnlearnEntry>,
    /// The attack. Its seed and its backbone are the cell's.
    pub attack: AttackSettings,
    /// Whether P and P+U are run beside P+U+A.
    pub ablation: bool,
    /// Images, forget and probing together, whose features every attack on an unlearned model keeps for a map of them (t-SNE), at most; 0
    /// keeps none.
    pub features: usize,
}

impl Default for Harness {
    fn default() -> Self {
        Harness {
            seeds: vec![0],
            datasets: Vec::new(),
            backbones: vec![Backbone::Resnet18, Backbone::Vgg16],
            methods: unlearn::METHODS.iter().map(|method| method.name().to_string()).collect(),
            train: PartialTrain::default(),
            unlearn: Vec::new(),
            attack: AttackSettings::default(),
            ablation: true,
            features: 500,
        }
    }
}

/// A data set and what is done with it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DatasetEntry {
    /// What the tables call it.
    pub name: String,
    /// Where its images come from.
    pub source: Source,
    /// How many training images of each class are used, chosen by the seed; all by default.
    #[serde(default)]
    pub train_per_class: Option<usize>,
    /// The share of the training split that models are trained on, D_t; above 0, at most 1. The paper: 0.9, of Tiny-ImageNet 1.
    #[serde(default = "most")]
    pub train_share: f64,
    /// The classes of which images are forgotten, by name. The paper: five.
    pub forget_classes: Vec<String>,
    /// The share of each of these that is forgotten, above 0, at most 1. The paper: 0.5.
    #[serde(default = "half")]
    pub forget_share: f64,
    /// How many test images of each class the probing set holds, chosen by the seed; all by default.
    #[serde(default)]
    pub probe_per_class: Option<usize>,
    /// What is taken away from each channel, once bytes are between 0 and 1: one number, or one a channel.
    #[serde(default = "nothing")]
    pub mean: Vec<f32>,
    /// By what it is divided then, in the same way.
    #[serde(default = "unit")]
    pub std: Vec<f32>,
}

fn most() -> f64 {
    0.9
}

fn half() -> f64 {
    0.5
}

fn drawn_side() -> u32 {
    crate::data::draw::DEFAULT_SIZE
}

fn nothing() -> Vec<f32> {
    vec![0.0]
}

fn unit() -> Vec<f32> {
    vec![1.0]
}

/// Where images come from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "lowercase", deny_unknown_fields)]
pub enum Source {
    /// The project draws them: shapes of ten classes, the same for the same numbers.
    Drawn {
        /// Training images of each class.
        train_per_class: usize,
        /// Test images of each class.
        test_per_class: usize,
        /// Pixels of a side.
        #[serde(default = "drawn_side")]
        size: u32,
        /// Seed of the drawings.
        #[serde(default)]
        seed: u64,
    },
    /// Files.
    Files {
        /// How they are stored.
        format: DataSet,
        /// Where, from the folder in which the command runs.
        path: PathBuf,
    },
}

/// Settings of the training loop; what is left out keeps its default.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs, reason = "as in TrainSettings")]
pub struct PartialTrain {
    pub epochs: Option<usize>,
    pub batch_size: Option<usize>,
    pub learning_rate: Option<f64>,
    pub momentum: Option<f64>,
    pub weight_decay: Option<f64>,
    pub nesterov: Option<bool>,
    pub schedule: Option<Schedule>,
    pub warmup_epochs: Option<usize>,
    /// Whether training images are cropped at random and mirrored. Default true.
    pub augment: Option<bool>,
}

impl PartialTrain {
    fn over(&self, base: TrainSettings) -> TrainSettings {
        TrainSettings {
            epochs: self.epochs.unwrap_or(base.epochs),
            batch_size: self.batch_size.unwrap_or(base.batch_size),
            learning_rate: self.learning_rate.unwrap_or(base.learning_rate),
            momentum: self.momentum.unwrap_or(base.momentum),
            weight_decay: self.weight_decay.unwrap_or(base.weight_decay),
            nesterov: self.nesterov.unwrap_or(base.nesterov),
            schedule: self.schedule.clone().unwrap_or(base.schedule.clone()),
            warmup_epochs: self.warmup_epochs.unwrap_or(base.warmup_epochs),
            ..base
        }
    }
}

/// Settings of a method, for all cells or for some.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct UnlearnEntry {
    /// The method.
    pub method: String,
    /// For this data set only.
    #[serde(default)]
    pub dataset: Option<String>,
    /// For this architecture only.
    #[serde(default)]
    pub backbone: Option<Backbone>,
    /// Training, of the methods that train.
    #[serde(default)]
    pub train: PartialTrain,
    /// Strength of FF, IU and WP. Given for FF and IU, it is not calibrated.
    #[serde(default)]
    pub alpha: Option<f64>,
    /// What FF and IU add to the curvature.
    #[serde(default)]
    pub damping: Option<f64>,
    /// On how many retain images FF and IU look at the curvature; 0 for all.
    #[serde(default)]
    pub curvature_images: Option<usize>,
    /// The share of the weights that WP removes.
    #[serde(default)]
    pub sparsity: Option<f64>,
    /// GA, FF, IU: strengths of which the strongest is taken that keeps the accuracy on the retain set; a list of one fixes it.
    #[serde(default)]
    pub calibrate: Option<Vec<f64>>,
    /// GA, FF, IU: how many points of that accuracy may be lost. Default 10.
    #[serde(default)]
    pub margin: Option<f64>,
}

/// What a method is run with in one cell.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct CellUnlearn {
    /// Its settings.
    pub settings: UnlearnSettings,
    /// Whether training images are cropped at random and mirrored.
    pub augment: bool,
    /// Strengths to choose from; `None` where the strength is given.
    pub calibrate: Option<Vec<f64>>,
    /// How many points of accuracy on the retain set may be lost then.
    pub margin: f64,
}

impl Harness {
    /// Reads and checks a file.
    ///
    /// # Errors
    /// Usage, naming file, line and key.
    pub fn read(path: &Path) -> Result<Harness> {
        let harness: Harness = yaml::parse(&yaml::read(path)?, path.display())?;
        harness.check().map_err(|error| error.at(path.display()))?;
        Ok(harness)
    }

    /// The JSON Schema of grid files, for editors: `docs/harness.schema.json` is this.
    pub fn json_schema() -> String {
        let schema = schemars::schema_for!(Harness);
        // A schema is plain JSON, which can be written.
        serde_json::to_string_pretty(&schema).unwrap_or_default() + "\n"
    }

    /// Leaves one data set, backbone, method (and RT, the control) or seed.
    ///
    /// # Errors
    /// Usage, when there is no such key or value.
    pub fn restrict(&mut self, key: &str, value: &str) -> Result<()> {
        match key {
            "dataset" => self.datasets.retain(|entry| entry.name == value),
            "backbone" => self.backbones.retain(|backbone| backbone.to_string() == value),
            "method" => self.methods.retain(|name| name.eq_ignore_ascii_case(value) || name.eq_ignore_ascii_case("RT")),
            "seed" => self.seeds.retain(|seed| seed.to_string() == value),
            _ => return Err(Error::usage(format!("unknown key '{key}'")).help("one of dataset, backbone, method, seed")),
        }
        // Settings of what is left out would name nothing.
        let left: Vec<String> = self.datasets.iter().map(|entry| entry.name.clone()).collect();
        let (backbones, methods) = (self.backbones.clone(), self.methods.clone());
        self.unlearn.retain(|entry| {
            entry.dataset.as_ref().is_none_or(|name| left.contains(name))
                && entry.backbone.is_none_or(|backbone| backbones.contains(&backbone))
                && methods.iter().any(|name| name.eq_ignore_ascii_case(&entry.method))
        });
        let empty = self.datasets.is_empty() || self.backbones.is_empty() || self.seeds.is_empty();
        let gone = key == "method" && !self.methods.iter().any(|name| name.eq_ignore_ascii_case(value));
        if empty || gone {
            return Err(Error::usage(format!("the grid has no {key} '{value}'")));
        }
        Ok(())
    }

    /// Refuses what makes no sense.
    ///
    /// # Errors
    /// Usage, naming the key.
    pub fn check(&self) -> Result<()> {
        let refuse = |key: &str, reason: &str| Err(Error::usage(reason).at(key));
        let lengths = [self.seeds.len(), self.datasets.len(), self.backbones.len(), self.methods.len()];
        for (key, length) in ["seeds", "datasets", "backbones", "methods"].into_iter().zip(lengths) {
            if length == 0 {
                return refuse(key, "is empty: there is nothing to run");
            }
        }
        let twice = |names: Vec<String>| {
            let mut seen = BTreeSet::new();
            names.into_iter().find(|name| !seen.insert(name.clone()))
        };
        let names = [
            ("seeds", self.seeds.iter().map(u64::to_string).collect()),
            ("datasets", self.datasets.iter().map(|entry| entry.name.clone()).collect()),
            ("backbones", self.backbones.iter().map(Backbone::to_string).collect()),
            ("methods", self.methods.iter().map(|name| name.to_uppercase()).collect::<Vec<String>>()),
        ];
        for (key, names) in names {
            if let Some(name) = twice(names) {
                return Err(Error::usage(format!("'{name}' comes twice")).at(key));
            }
        }
        for method in &self.methods {
            unlearn::method(method).map_err(|error| error.at("methods"))?;
        }
        for dataset in &self.datasets {
            dataset.check().map_err(|error| error.at(format!("datasets: {}", dataset.name)))?;
        }
        for entry in &self.unlearn {
            self.check_entry(entry).map_err(|error| error.at(format!("unlearn: {}", entry.method)))?;
        }
        self.training(0).0.check().map_err(|error| error.at("train"))?;
        self.attack.validate().map_err(|error| error.at("attack"))?;
        let default = AttackSettings::default();
        if self.attack.seed != default.seed {
            return refuse("attack", "seed is set here, but every seed of a cell follows from `seeds`");
        }
        if self.attack.backbone != default.backbone {
            return refuse("attack", "backbone is set here, but every attack model has that of its cell");
        }
        if self.attack.variant != default.variant {
            return refuse("attack", "variant is set here, but the tables are of P+U+A, and of the others with `ablation: true`");
        }
        for (dataset, backbone, method) in self.cells() {
            let cell = self.unlearning(&dataset.name, backbone, method, 0);
            cell.settings.check().map_err(|error| error.at(format!("unlearn: {}", method.name())))?;
        }
        Ok(())
    }

    fn check_entry(&self, entry: &UnlearnEntry) -> Result<()> {
        let method = unlearn::method(&entry.method)?;
        if let Some(name) = entry.dataset.as_ref().filter(|name| !self.datasets.iter().any(|dataset| dataset.name == **name)) {
            return Err(Error::usage(format!("there is no data set '{name}' in this file")));
        }
        if let Some(backbone) = entry.backbone.filter(|backbone| !self.backbones.contains(backbone)) {
            return Err(Error::usage(format!("there is no backbone {backbone} in this file")));
        }
        if !self.methods.iter().any(|name| name.eq_ignore_ascii_case(&entry.method)) {
            return Err(Error::usage("the file's `methods` do not have this one"));
        }
        if entry.alpha.is_some() && entry.calibrate.is_some() {
            return Err(Error::usage("alpha is given, and calibrate would choose it").help("leave one of them out"));
        }
        if let Some(margin) = entry.margin.filter(|margin| !(margin.is_finite() && *margin >= 0.0)) {
            return Err(Error::usage(format!("margin is {margin}, which is not a number of at least 0")));
        }
        if entry.calibrate.as_ref().is_some_and(|all| all.is_empty() || all.iter().any(|one| !(one.is_finite() && *one > 0.0))) {
            return Err(Error::usage("calibrate needs strengths, each a finite number above 0"));
        }
        let heeds = |setting| method.heeds().contains(&setting);
        let train = entry.train.clone();
        // The batch size counts wherever images are looked at.
        let trains = PartialTrain { batch_size: None, ..train } != PartialTrain::default();
        let given = [
            ("train", trains, heeds(Setting::Train)),
            ("alpha", entry.alpha.is_some(), heeds(Setting::Alpha)),
            ("damping", entry.damping.is_some(), heeds(Setting::Damping)),
            ("curvature_images", entry.curvature_images.is_some(), heeds(Setting::CurvatureImages)),
            ("sparsity", entry.sparsity.is_some(), heeds(Setting::Sparsity)),
            ("calibrate", entry.calibrate.is_some(), method.tuned().is_some()),
            ("margin", entry.margin.is_some(), method.tuned().is_some()),
        ];
        match given.iter().find(|(_, given, heeded)| *given && !heeded) {
            Some((key, ..)) => Err(Error::usage(format!("{key} means nothing to {}", method.name())).help("leave it out")),
            None => Ok(()),
        }
    }

    /// Every data set, backbone and method, in the file's order.
    pub fn cells(&self) -> Vec<(&DatasetEntry, Backbone, &'static dyn Method)> {
        let mut cells = Vec::new();
        for dataset in &self.datasets {
            for &backbone in &self.backbones {
                // Names were checked; a wrong one is left out here.
                cells.extend(self.methods.iter().filter_map(|name| Some((dataset, backbone, unlearn::method(name).ok()?))));
            }
        }
        cells
    }

    /// How original models are trained, and whether with augmentation.
    pub fn training(&self, seed: u64) -> (TrainSettings, bool) {
        let base = TrainSettings { epochs: 100, seed, ..TrainSettings::default() };
        (self.train.over(base), self.train.augment.unwrap_or(true))
    }

    /// What a method is run with in a cell.
    pub fn unlearning(&self, dataset: &str, backbone: Backbone, method: &dyn Method, seed: u64) -> CellUnlearn {
        let mut settings = method.defaults();
        settings.train.seed = seed;
        // Retraining is training on fewer images, unless somebody says otherwise.
        if method.name() == "RT" {
            settings.train = self.training(seed).0;
        }
        let (mut augment, mut calibrate, mut margin) = (self.training(seed).1, None, 10.0);
        let mut given = method.tuned().is_none();
        let applies = |entry: &&UnlearnEntry| {
            entry.method.eq_ignore_ascii_case(method.name())
                && entry.dataset.as_deref().is_none_or(|name| name == dataset)
                && entry.backbone.is_none_or(|own| own == backbone)
        };
        for entry in self.unlearn.iter().filter(applies) {
            settings.train = entry.train.over(settings.train);
            settings.alpha = entry.alpha.unwrap_or(settings.alpha);
            settings.damping = entry.damping.unwrap_or(settings.damping);
            settings.curvature_images = entry.curvature_images.unwrap_or(settings.curvature_images);
            settings.sparsity = entry.sparsity.unwrap_or(settings.sparsity);
            augment = entry.train.augment.unwrap_or(augment);
            calibrate = entry.calibrate.clone().or(calibrate);
            margin = entry.margin.unwrap_or(margin);
            given |= match method.tuned() {
                Some(Setting::LearningRate) => entry.train.learning_rate.is_some(),
                Some(_) => entry.alpha.is_some(),
                None => true,
            };
        }
        let calibrate =
            if calibrate.is_none() && given { None } else { Some(calibrate.unwrap_or_else(|| method.candidates().to_vec())) };
        CellUnlearn { settings, augment, calibrate: calibrate.filter(|_| method.tuned().is_some()), margin }
    }
}

impl DatasetEntry {
    fn check(&self) -> Result<()> {
        if self.name.is_empty() || self.forget_classes.is_empty() {
            return Err(Error::usage("name and forget_classes must not be empty"));
        }
        let mut seen = BTreeSet::new();
        if let Some(class) = self.forget_classes.iter().find(|class| !seen.insert(*class)) {
            return Err(Error::usage(format!("forget_classes names '{class}' twice")));
        }
        if !(self.train_share > 0.0 && self.train_share <= 1.0) {
            return Err(Error::usage(format!("train_share is {}, which is not above 0 and at most 1", self.train_share)));
        }
        if !(self.forget_share > 0.0 && self.forget_share <= 1.0) {
            return Err(Error::usage(format!("forget_share is {}, which is not above 0 and at most 1", self.forget_share)));
        }
        self.adapter().validate()
    }

    /// How its images are turned into numbers.
    pub fn adapter(&self) -> Adapter {
        let mut adapter = Adapter::default();
        adapter.input.mean.clone_from(&self.mean);
        adapter.input.std.clone_from(&self.std);
        adapter
    }
}

impl Source {
    /// The options of the project's own drawings.
    pub fn drawing(&self) -> Option<DrawOptions> {
        match *self {
            Source::Drawn { train_per_class, test_per_class, size, seed } => {
                Some(DrawOptions { train_per_class, test_per_class, size, seed, ..DrawOptions::default() })
            }
            Source::Files { .. } => None,
        }
    }
}
