//! `cmira data`: makes and looks at data sets.

use std::path::{Path, PathBuf};

use clap::Subcommand;

use crate::cli::common::{self, Expected};
use crate::cli::progress::{BYTES, Reporter};
use crate::data::draw::{DrawOptions, draw};
use crate::data::fetch::{Patience, Remote, download, published, unpack};
use crate::data::{DataSet, Part, splits};
use crate::error::{Error, Result};
use crate::harness::probing;
use crate::report::csv;

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  cmira data check images/probe
  cmira data fetch cifar10 data/cifar10")]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Draw a labelled data set of shapes: the same options give the same images, byte for byte.
    #[command(after_help = "Example:\n  cmira data draw drawn --train-per-class 150 --test-per-class 60 --seed 1")]
    Draw {
        /// The folder to make; gets `train/<class>/` and `test/<class>/`.
        #[arg(value_name = "DIR")]
        out: PathBuf,
        /// How many classes.
        #[arg(long, default_value_t = 10)]
        classes: usize,
        /// Training images of each class.
        #[arg(long, default_value_t = 150, value_name = "N")]
        train_per_class: usize,
        /// Test images of each class.
        #[arg(long, default_value_t = 60, value_name = "N")]
        test_per_class: usize,
        /// Seed of the drawings.
        #[arg(long, default_value_t = 0)]
        seed: u64,
        /// Print errors only.
        #[arg(long)]
        quiet: bool,
    },
    /// Download a published data set from where its authors put it, check it, and unpack it.
    #[command(
        after_help = "Example:\n  cmira data fetch cifar10 data/cifar10\nA download that broke off goes on when the same command is run again."
    )]
    Fetch {
        /// cifar10, cifar100, fmnist or tiny-imagenet.
        #[arg(value_name = "NAME")]
        set: DataSet,
        /// Where it goes.
        #[arg(value_name = "DIR")]
        folder: PathBuf,
        /// Another address whose files are called the same; they still have to be those that were published.
        #[arg(long, value_name = "URL")]
        from: Option<String>,
        /// Print errors only.
        #[arg(long)]
        quiet: bool,
    },
    /// Copy a seeded choice of images of every class into a new folder, such as a probing set of a smaller size.
    #[command(after_help = "Example:\n  cmira data sample cifar10/test probe --per-class 400 --seed 1")]
    Sample {
        /// Labelled images, a folder for every class.
        #[arg(value_name = "FROM")]
        from: PathBuf,
        /// The folder to make; it must not exist, so that nothing is mixed.
        #[arg(value_name = "TO")]
        to: PathBuf,
        /// Images of each class.
        #[arg(long, value_name = "N")]
        per_class: usize,
        /// Seed of the choice. A smaller choice with the same seed is part of a larger one.
        #[arg(long, default_value_t = 0)]
        seed: u64,
        /// Print errors only.
        #[arg(long)]
        quiet: bool,
    },
    /// Build a probing set by image search: of a pool of labelled images those that are most like the images to be forgotten.
    #[command(
        after_help = "Example:\n  cmira data probe --query forget --pool pool --features model.onnx --mapping mapping.csv --per-class 200 --out probe
mapping.csv says which class of the model each class of the pool stands for, under the header `pool,class`; without it, classes that are called the same are used."
    )]
    Probe(Box<ProbeArgs>),
    /// Read images and say what is in them and what is wrong with them.
    #[command(after_help = "Examples:\n  cmira data check drawn/train\n  cmira data check fashion --format fmnist --part test")]
    Check {
        /// A folder of `<class>/*.png`, or of images with a `labels.csv`; with --format, of the published files.
        #[arg(value_name = "DIR")]
        folder: PathBuf,
        /// The files of a published data set: cifar10, cifar100, fmnist or tiny-imagenet.
        #[arg(long, value_name = "FORMAT")]
        format: Option<DataSet>,
        /// Of a published data set: train or test.
        #[arg(long, default_value = "train", value_parser = ["train", "test"])]
        part: String,
        /// 1 for grey, 3 for colour.
        #[arg(long, default_value_t = 3)]
        channels: usize,
    },
}

#[derive(Debug, clap::Args)]
struct ProbeArgs {
    /// The images to be forgotten; labels are not looked at.
    #[arg(long, value_name = "DIR")]
    query: PathBuf,
    /// Labelled images to choose from, a folder for every class.
    #[arg(long, value_name = "DIR")]
    pool: PathBuf,
    /// A classifier whose features say what is alike.
    #[arg(long, value_name = "MODEL.onnx")]
    features: PathBuf,
    /// The name of the value in its graph that is compared; by default its logits.
    #[arg(long, value_name = "NAME")]
    layer: Option<String>,
    /// How that classifier wants its images.
    #[arg(long, value_name = "ADAPTER.yaml")]
    adapter: Option<PathBuf>,
    /// Which class of the audited model each class of the pool stands for.
    #[arg(long, value_name = "MAPPING.csv")]
    mapping: Option<PathBuf>,
    /// Class names of the audited model in its order, separated by commas; by default those of the mapping, or of the pool, in
    /// alphabetical order.
    #[arg(long, value_delimiter = ',', value_name = "CLASS")]
    classes: Vec<String>,
    /// Images of each class, at most.
    #[arg(long, value_name = "N")]
    per_class: usize,
    /// Resize images of another size instead of leaving them out.
    #[arg(long)]
    resize: bool,
    /// The folder to make: class folders, and probe.csv with what was chosen and why.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    #[command(flatten)]
    reading: common::Reading,
    #[command(flatten)]
    compute: common::Compute,
}

pub fn run(args: &Args) -> Result<()> {
    match &args.command {
        Command::Probe(args) => probe(args),
        Command::Draw { out, classes, train_per_class, test_per_class, seed, quiet } => {
            let options = DrawOptions {
                classes: *classes,
                train_per_class: *train_per_class,
                test_per_class: *test_per_class,
                seed: *seed,
                ..DrawOptions::default()
            };
            let reporter = Reporter::new(*quiet);
            let bar = reporter.bar("drawing", "images");
            draw(out, &options, &mut |progress| bar.set(progress.done as u64, progress.total as u64))?;
            bar.finish();
            let (train, test) = (classes * train_per_class, classes * test_per_class);
            reporter.note(&format!("{} now holds {train} training and {test} test images of {classes} classes", out.display()));
            Ok(())
        }
        Command::Fetch { set, folder, from, quiet } => fetch(*set, folder, from.as_deref(), &Reporter::new(*quiet)),
        Command::Sample { from, to, per_class, seed, quiet } => sample(from, to, *per_class, *seed, &Reporter::new(*quiet)),
        Command::Check { folder, format, part, channels } => {
            let reporter = Reporter::new(false);
            let set = match format {
                None => common::images_naming(usize::MAX, folder, &any_labelled(*channels), None, &reporter)?,
                Some(format) => {
                    let bar = reporter.bar(&format!("reading {}", folder.display()), "images");
                    let part = if part == "train" { Part::Train } else { Part::Test };
                    let set = format.read(folder, part, &mut |p| bar.set(p.done as u64, p.total as u64));
                    bar.finish();
                    set?
                }
            };
            let labelled = set.labels.iter().filter(|l| l.is_some()).count();
            println!("images:   {} of {}x{}, {} channels", set.len(), set.width(), set.height(), set.channels());
            println!("labelled: {labelled}");
            println!("classes:  {}", set.classes.join(", "));
            println!("SHA-256:  {}", set.sha256);
            match set.problems.len() {
                0 => Ok(()),
                n => Err(Error::data(format!("{n} files cannot be used")).at(folder.display())),
            }
        }
    }
}

/// Images of one size, whatever it is, in class folders.
fn any_labelled(channels: usize) -> Expected {
    Expected { size: None, channels, classes: None, resize: false }
}

fn sample(from: &Path, to: &Path, per_class: usize, seed: u64, reporter: &Reporter) -> Result<()> {
    common::must_be_new(to)?;
    let set = common::images(from, &any_labelled(3), None, reporter)?;
    let chosen = set.subset(&splits::per_class_subset(&set.label_list()?, per_class, seed)?)?;
    common::copy_images(from, to, &chosen)?;
    reporter.note(&format!("{} now holds {} images of {} classes", to.display(), chosen.len(), chosen.classes.len()));
    Ok(())
}

fn fetch(set: DataSet, folder: &Path, from: Option<&str>, reporter: &Reporter) -> Result<()> {
    let files = published(set);
    if files.is_empty() {
        return Err(Error::usage(format!("'{set}' is published nowhere")));
    }
    let stop = common::listen_for_interrupt();
    for file in files {
        let url = match from {
            Some(base) => format!("{}/{}", base.trim_end_matches('/'), file.file_name()),
            None => file.url.to_string(),
        };
        let target = folder.join(file.file_name());
        let bar = reporter.bar(&format!("downloading {}", file.file_name()), BYTES);
        let remote = Remote { url: &url, ..*file };
        let done = download(&remote, &target, Patience::default(), &mut |bytes| bar.set(bytes, file.bytes), stop);
        bar.finish();
        done?;
        reporter.note(&format!("{}: {} bytes, as published", target.display(), file.bytes));
        unpack(&target, folder, stop)?;
    }
    Ok(())
}

fn probe(args: &ProbeArgs) -> Result<()> {
    common::must_be_new(&args.out)?;
    let device = args.compute.start()?;
    let reporter = args.compute.reporter();
    let adapter = common::adapter(args.adapter.as_deref())?;
    let model = common::open(&args.features, &adapter, &args.reading, device)?;
    // The classes of the pool need not be those of the classifier that compares.
    let expected = Expected { classes: None, ..common::expected(&model, &adapter, args.resize)? };
    let pool = common::images(&args.pool, &expected, None, &reporter)?;
    let size = Some((pool.height(), pool.width()));
    let query = common::images(&args.query, &Expected { size, ..expected }, None, &reporter)?;
    let classes = if !args.classes.is_empty() {
        args.classes.clone()
    } else if let Some(path) = &args.mapping {
        probing::mapped_classes(path)?
    } else {
        pool.classes.clone()
    };
    let mapping = match &args.mapping {
        Some(path) => probing::mapping(path, &pool.classes, &classes)?,
        None => probing::same_names(&pool.classes, &classes),
    };
    let of = |set| probing::features(&model, set, &adapter, args.layer.as_deref());
    let features = (of(&query)?, of(&pool)?);
    let chosen = probing::choose(&query, &pool, (&features.0, &features.1), &mapping, args.per_class)?;
    let set = probing::probing_set(&pool, &chosen, &classes)?;
    // Several classes of the pool can become one, and their files be called the same.
    common::copy_images_as(&args.pool, &args.out, &set, &|name| name.replace('/', "-"))?;
    let header = ["image", "class", "similarity", "nearest"];
    let row = |(one, name): (&probing::Chosen, &String)| {
        let class = usize::try_from(one.class).ok().and_then(|class| classes.get(class)).map_or("", String::as_str);
        let nearest = query.names.get(one.nearest).map_or("", String::as_str);
        vec![csv::text(name), csv::text(class), one.similarity.to_string(), csv::text(nearest)]
    };
    let rows: Vec<Vec<String>> = chosen.iter().zip(&set.names).map(row).collect();
    csv::write(&args.out.join("probe.csv"), &header, &rows)?;
    let counts = set.class_counts();
    for (class, count) in classes.iter().zip(&counts).filter(|(_, count)| **count < args.per_class) {
        reporter.warn(&format!("class '{class}' has {count} images, not {}", args.per_class));
    }
    reporter.note(&format!(
        "{} now holds {} images of {} classes",
        args.out.display(),
        set.len(),
        counts.iter().filter(|c| **c > 0).count()
    ));
    Ok(())
}
