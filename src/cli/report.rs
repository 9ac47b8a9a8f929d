//! `cmira report`: tables again, from results alone.

use std::path::PathBuf;

use crate::error::{Error, Result};
use crate::report::{compare, workbook};

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  cmira report grid --compare fixtures/paper
  cmira report audit --xlsx")]
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
}

pub fn run(args: &Args) -> Result<()> {
    if args.compare.is_none() && !args.xlsx {
        return Err(Error::usage("there is nothing to do").help("give --compare, --xlsx or both"));
    }
    if let Some(paper) = &args.compare {
        println!("{}", compare::write(&args.results, paper)?.display());
    }
    if args.xlsx {
        println!("{}", workbook::write(&args.results)?.display());
    }
    Ok(())
}
