//! `cmira report`: tables, figures and page again, from results alone.

use std::path::{Path, PathBuf};
use std::sync::Mutex;

use super::progress::Reporter;
use crate::cli::common;
use crate::error::{Error, Result};
use crate::report::pages::{self, Maps};
use crate::report::{compare, grid, summary, workbook};

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  cmira report audit
  cmira report grid --compare fixtures/paper --xlsx
Needs the results folder and nothing else: no model, no images, no GPU.")]
pub struct Args {
    /// Results of `cmira run` or `cmira audit`.
    #[arg(value_name = "DIR")]
    results: PathBuf,
    /// Put the paper's figures, ours and the difference side by side, in compare.csv.
    #[arg(long, value_name = "PAPER")]
    compare: Option<PathBuf>,
    /// Write all tables into one workbook, tables.xlsx.
    #[arg(long)]
    xlsx: bool,
    /// Draw no maps of features (t-SNE), which take longer than everything else.
    #[arg(long)]
    no_maps: bool,
    /// Print one JSON document: the files that were written.
    #[arg(long)]
    json: bool,
    /// Print results and errors only.
    #[arg(long)]
    quiet: bool,
}

pub fn run(args: &Args) -> Result<()> {
    common::or_json(args.json, report(args))
}

fn report(args: &Args) -> Result<()> {
    common::end_on_interrupt();
    let maps = if args.no_maps { Maps::LeftOut } else { Maps::Drawn };
    let mut written = match Results::in_folder(&args.results) {
        Some(results) => write_page(&args.results, results, maps, &Reporter::new(args.quiet))?,
        // Tables alone can be compared and gathered as well.
        None if args.compare.is_some() || args.xlsx => Vec::new(),
        None => {
            let error = Error::data("holds no results of an audit (run.json) or a grid (grid.json)");
            return Err(error.at(args.results.display()).help("name the folder that was --out of `cmira audit` or `cmira run`"));
        }
    };
    if let Some(paper) = &args.compare {
        written.push(compare::write(&args.results, paper)?);
    }
    if args.xlsx {
        written.push(workbook::write(&args.results)?);
    }
    if args.json {
        let paths: Vec<String> = written.iter().map(|path| path.display().to_string()).collect();
        println!("{:#}", serde_json::json!({ "written": paths }));
    } else {
        for path in &written {
            println!("{}", path.display());
        }
    }
    Ok(())
}

/// What a folder holds results of.
#[derive(Debug, Clone, Copy)]
pub enum Results {
    Audit,
    Grid,
}

impl Results {
    fn in_folder(folder: &Path) -> Option<Results> {
        let has = |name: &str| folder.join(name).is_file();
        match (has(grid::FILE), has(summary::FILE)) {
            (true, _) => Some(Results::Grid),
            (_, true) => Some(Results::Audit),
            _ => None,
        }
    }
}

/// Makes tables, figures and page, with a bar; gives what was written, the page first.
pub fn write_page(folder: &Path, results: Results, maps: Maps, reporter: &Reporter) -> Result<Vec<PathBuf>> {
    let bar = Mutex::new(reporter.bar("maps of features", "steps"));
    let progress = |done: usize, of: usize| {
        // A bar that another thread left in the middle of something is still a bar.
        bar.lock().unwrap_or_else(std::sync::PoisonError::into_inner).set(done as u64, of as u64);
    };
    let written = match results {
        Results::Audit => pages::audit(folder, maps, &progress),
        Results::Grid => pages::grid(folder, maps, &progress),
    };
    bar.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner).finish();
    written
}
