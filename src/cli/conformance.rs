//! `cmira conformance`: ONNX's own test cases.

use std::path::PathBuf;

use crate::check::conformance::{self, Outcome};
use crate::cli::common::Compute;
use crate::error::{Error, Place, Result, readable};
use crate::report::csv;

#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  cmira conformance .native/conformance --csv conformance.csv")]
pub struct Args {
    /// Folders that hold test cases: model.onnx, test_data_set_*/input_*.pb and output_*.pb.
    #[arg(value_name = "DIR", required = true)]
    directories: Vec<PathBuf>,
    /// Write case, result and reason as CSV.
    #[arg(long, value_name = "FILE")]
    csv: Option<PathBuf>,
    #[command(flatten)]
    compute: Compute,
}

pub fn run(args: &Args) -> Result<()> {
    args.compute.start()?;
    let reporter = args.compute.reporter();
    let mut cases = Vec::new();
    for directory in &args.directories {
        cases.extend(conformance::cases(directory)?);
    }
    let bar = reporter.bar("conformance", "cases");
    let (mut rows, mut counts) = (Vec::with_capacity(cases.len()), [0_usize; 3]);
    for (done, case) in (1..).zip(&cases) {
        let (place, result, reason) = match conformance::run(case) {
            Outcome::Pass => (0, "pass", String::new()),
            Outcome::Fail(reason) => (1, "fail", reason),
            Outcome::Unsupported(reason) => (2, "unsupported", reason),
        };
        counts[place] += 1;
        println!("{}", readable(format!("{result:<11} {} {reason}", case.name).trim_end()));
        rows.push(vec![case.name.clone(), result.to_string(), reason]);
        bar.set(done, cases.len() as u64);
    }
    bar.finish();
    if let Some(path) = &args.csv {
        csv::write(path, &["case", "result", "reason"], &rows).at(|| path.display())?;
    }
    let [passed, failed, unsupported] = counts;
    println!("{} cases: {passed} pass, {failed} fail, {unsupported} are not supported", cases.len());
    if failed > 0 { Err(Error::disagree(format!("{failed} of {} cases fail", cases.len()))) } else { Ok(()) }
}
