//! `cmira data`: makes and looks at data sets.

use std::path::{Path, PathBuf};

use clap::Subcommand;

use crate::cli::common::{self, Expected};
use crate::cli::progress::Reporter;
use crate::data::draw::{DrawOptions, draw};
use crate::data::fetch::{Patience, Remote, download, published, unpack};
use crate::data::{DataSet, Part, splits};
use crate::error::{Error, Result};

#[derive(Debug, clap::Args)]
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

pub fn run(args: &Args) -> Result<()> {
    match &args.command {
        Command::Draw { out, classes, train_per_class, test_per_class, seed, quiet } => {
            let options = DrawOptions {
                classes: *classes,
                train_per_class: *train_per_class,
                test_per_class: *test_per_class,
                seed: *seed,
                ..DrawOptions::default()
            };
            let reporter = Reporter::new(*quiet);
            let bar = reporter.bar("drawing");
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
                None => common::images(folder, &any_labelled(*channels), None, &reporter)?,
                Some(format) => {
                    let bar = reporter.bar(&format!("reading {}", folder.display()));
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
        let bar = reporter.bar(&format!("downloading {}", file.file_name()));
        let remote = Remote { url: &url, ..*file };
        let done = download(&remote, &target, Patience::default(), &mut |bytes| bar.set(bytes, file.bytes), stop);
        bar.finish();
        done?;
        reporter.note(&format!("{}: {} bytes, as published", target.display(), file.bytes));
        unpack(&target, folder)?;
    }
    Ok(())
}
