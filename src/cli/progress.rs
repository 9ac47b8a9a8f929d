//! Progress for people: bars with time left on a terminal, a plain line now and then elsewhere, nothing when quiet.

use std::cell::Cell;
use std::io::IsTerminal;
use std::time::{Duration, Instant};

use crate::error::readable;
use indicatif::{ProgressBar, ProgressStyle};

/// Makes bars and prints notes. Everything goes to stderr; stdout is for results.
pub struct Reporter {
    quiet: bool,
    terminal: bool,
}

impl Reporter {
    /// `quiet` leaves only warnings.
    pub fn new(quiet: bool) -> Reporter {
        Reporter { quiet, terminal: std::io::stderr().is_terminal() }
    }

    /// Something a user should know while waiting.
    pub fn note(&self, text: &str) {
        if !self.quiet {
            eprintln!("{}", readable(text));
        }
    }

    /// Something that may make a result less than it seems; shown even when quiet.
    pub fn warn(&self, text: &str) {
        eprintln!("warning: {}", readable(text));
    }

    /// Work of which nobody knows how long it takes; on a terminal its time is shown.
    pub fn wait(&self, what: &str) -> Bar {
        if self.quiet || !self.terminal {
            return Bar::Off;
        }
        let bar = ProgressBar::new_spinner();
        if let Ok(style) = ProgressStyle::with_template("{msg} {spinner} {elapsed}") {
            bar.set_style(style);
        }
        bar.set_message(what.to_string());
        bar.enable_steady_tick(Duration::from_millis(250));
        Bar::Terminal(bar)
    }

    /// Progress of one piece of work.
    pub fn bar(&self, what: &str) -> Bar {
        if self.quiet {
            return Bar::Off;
        }
        if !self.terminal {
            let now = Instant::now();
            let zero = || Cell::new(0);
            return Bar::Plain {
                what: what.to_string(),
                started: Cell::new(now),
                begun: zero(),
                first: zero(),
                whole: zero(),
                last: Cell::new(now),
            };
        }
        let bar = ProgressBar::new(0);
        if let Ok(style) = ProgressStyle::with_template("{msg:40!} {wide_bar} {pos}/{len} {per_sec:>10} {eta:>4} left") {
            bar.set_style(style);
        }
        bar.set_message(what.to_string());
        bar.enable_steady_tick(Duration::from_millis(250));
        Bar::Terminal(bar)
    }
}

/// One piece of work in progress.
pub enum Bar {
    /// Nothing is shown.
    Off,
    /// A line every ten seconds.
    Plain {
        /// What is being done.
        what: String,
        /// When the stage in hand began.
        started: Cell<Instant>,
        /// How far that stage is; a smaller number begins another stage.
        begun: Cell<u64>,
        /// How far it was when it began.
        first: Cell<u64>,
        /// How much of it there is; another number is another stage as well.
        whole: Cell<u64>,
        /// When the last line was printed.
        last: Cell<Instant>,
    },
    /// A bar.
    Terminal(ProgressBar),
}

impl Bar {
    /// How far the work is.
    pub fn set(&self, done: u64, total: u64) {
        match self {
            Bar::Off => {}
            Bar::Terminal(bar) => {
                bar.set_length(total);
                bar.set_position(done);
            }
            Bar::Plain { what, started, begun, first, whole, last } => {
                if done < begun.replace(done) || total != whole.replace(total) {
                    started.set(Instant::now());
                    first.set(done);
                }
                if last.get().elapsed() >= Duration::from_secs(10) && done > 0 {
                    last.set(Instant::now());
                    let took = started.get().elapsed().as_secs_f64().max(1e-9);
                    // What was done before this stage was looked at, by a run that was interrupted, took no time of this one.
                    let rate = done.saturating_sub(first.get()).max(1) as f64 / took;
                    let left = total.saturating_sub(done) as f64 / rate;
                    eprintln!("{what}: {done}/{total}, {rate:.1}/s, about {left:.0} s left");
                }
            }
        }
    }

    /// How far a training is, in batches.
    pub fn batch(&self, epoch: usize, epochs: usize, batch: usize, of: usize) {
        self.set((epoch.saturating_sub(1) * of + batch) as u64, (epochs * of) as u64);
    }

    /// Changes the text.
    pub fn message(&self, text: &str) {
        if let Bar::Terminal(bar) = self {
            bar.set_message(text.to_string());
        }
    }

    /// Takes the bar away.
    pub fn finish(&self) {
        if let Bar::Terminal(bar) = self {
            bar.finish_and_clear();
        }
    }
}
