//! Progress for people: bars with time left on a terminal, a plain line now and then elsewhere, nothing when quiet.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{HumanBytes, HumanCount, ProgressBar, ProgressState, ProgressStyle};

use crate::error::readable;

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

    /// Progress of one piece of work, which is counted in some unit: `images`, [`BYTES`].
    pub fn bar(&self, what: &str, unit: &'static str) -> Bar {
        if self.quiet {
            return Bar::Off;
        }
        if !self.terminal {
            let now = Instant::now();
            let zero = || Cell::new(0);
            return Bar::Plain {
                what: RefCell::new(what.to_string()),
                unit,
                started: Cell::new(now),
                begun: zero(),
                first: zero(),
                whole: zero(),
                last: Cell::new(now),
            };
        }
        let bar = ProgressBar::new(0);
        if let Ok(style) = ProgressStyle::with_template("{msg:46!} {wide_bar} {counts} {rate} {left}") {
            let counts = move |state: &ProgressState, out: &mut dyn fmt::Write| {
                // A line that cannot be written is not shown.
                let _ = out.write_str(&counted(state.pos(), state.len().unwrap_or(0), unit));
            };
            let rate = move |state: &ProgressState, out: &mut dyn fmt::Write| {
                let _ = out.write_str(&if known(state) { speed(state.per_sec(), unit) } else { String::new() });
            };
            let left = |state: &ProgressState, out: &mut dyn fmt::Write| {
                let _ = if known(state) { write!(out, "{} left", rough(state.eta())) } else { Ok(()) };
            };
            bar.set_style(style.with_key("counts", counts).with_key("rate", rate).with_key("left", left));
        }
        bar.set_message(what.to_string());
        bar.enable_steady_tick(Duration::from_millis(250));
        Bar::Terminal(bar)
    }
}

/// The unit of what is counted in bytes, which are shown as MiB where there are many.
pub const BYTES: &str = "bytes";

/// Whether enough was seen to say how fast it goes.
fn known(state: &ProgressState) -> bool {
    state.elapsed() >= Duration::from_secs(1) && state.pos() > 0
}

fn counted(done: u64, total: u64, unit: &str) -> String {
    // Between two stages the bar has the length of one and the place of the other.
    let done = done.min(total);
    match unit {
        _ if total == 0 => String::new(),
        BYTES => format!("{} of {}", HumanBytes(done), HumanBytes(total)),
        unit => format!("{} of {} {unit}", HumanCount(done), HumanCount(total)),
    }
}

fn speed(rate: f64, unit: &str) -> String {
    match unit {
        BYTES => format!("{}/s", HumanBytes(rate as u64)),
        _ if rate < 10.0 => format!("{rate:.1}/s"),
        _ => format!("{}/s", HumanCount(rate as u64)),
    }
}

/// A time in the unit that suits it.
pub fn rough(time: Duration) -> String {
    match time.as_secs() {
        seconds @ 0..=99 => format!("{seconds} s"),
        seconds @ 100..=5999 => format!("{} min", seconds / 60),
        seconds => format!("{} h", seconds / 3600),
    }
}

/// One piece of work in progress.
pub enum Bar {
    /// Nothing is shown.
    Off,
    /// A line every ten seconds.
    Plain {
        /// What is being done.
        what: RefCell<String>,
        /// What it is counted in.
        unit: &'static str,
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
            Bar::Plain { what, unit, started, begun, first, whole, last } => {
                if done < begun.replace(done) || total != whole.replace(total) {
                    started.set(Instant::now());
                    first.set(done);
                }
                // A rate over an instant would be none.
                let seen = started.get().elapsed() >= Duration::from_secs(1);
                if last.get().elapsed() >= Duration::from_secs(10) && done > 0 && seen {
                    last.set(Instant::now());
                    let took = started.get().elapsed().as_secs_f64().max(1e-9);
                    // What was done before this stage was looked at, by a run that was interrupted, took no time of this one.
                    let rate = done.saturating_sub(first.get()).max(1) as f64 / took;
                    // Finite and not negative: the rate is above zero, and at most some hundred years are said.
                    let left = Duration::from_secs_f64((total.saturating_sub(done) as f64 / rate).min(3e9));
                    let (counted, speed) = (counted(done, total, unit), speed(rate, unit));
                    eprintln!("{}: {counted}, {speed}, about {} left", readable(&what.borrow()), rough(left));
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
        match self {
            Bar::Off => {}
            Bar::Plain { .. } if text.is_empty() => {}
            Bar::Plain { what, .. } => *what.borrow_mut() = text.to_string(),
            Bar::Terminal(bar) => bar.set_message(text.to_string()),
        }
    }

    /// Takes the bar away.
    pub fn finish(&self) {
        if let Bar::Terminal(bar) = self {
            bar.finish_and_clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_is_told_in_its_unit() {
        assert_eq!(counted(1_200, 50_000, "images"), "1,200 of 50,000 images");
        assert_eq!(counted(1 << 20, 3 << 20, BYTES), "1.00 MiB of 3.00 MiB");
        assert_eq!((speed(2.53, "images"), speed(2_610_966.4, "images")), ("2.5/s".to_string(), "2,610,966/s".to_string()));
        assert_eq!(speed(1_048_576.0, BYTES), "1.00 MiB/s");
        let times = [99, 100, 6_000].map(|seconds| rough(Duration::from_secs(seconds)));
        assert_eq!(times, ["99 s", "1 min", "1 h"]);
    }
}
