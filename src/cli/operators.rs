//! `cmira operators`: what the importer knows.

use crate::graph::ops::reference;

#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  cmira operators > operators.md")]
pub struct Args {}

pub fn run(_: &Args) {
    print!("{}", reference::markdown());
}
