//! How far a download is: a bar with the time left on a terminal, now and then a line elsewhere.

use std::io::{IsTerminal, stderr};
use std::time::{Duration, Instant};

use indicatif::{DecimalBytes, HumanDuration, ProgressBar, ProgressStyle};

const BAR: &str = "  {bar:30} {decimal_bytes} of {decimal_total_bytes}, {decimal_bytes_per_sec}, {eta} left";
const LINE_EVERY: Duration = Duration::from_secs(15);

/// The progress of one file.
pub struct Progress {
    bar: ProgressBar,
    /// When the last line was written, where there is no terminal.
    line: Option<Instant>,
}

impl Progress {
    /// Of a file that will have that many bytes, some of which may be there already.
    pub fn new(bytes: u64, already: u64) -> Self {
        let style = ProgressStyle::with_template(BAR).unwrap_or_else(|_| ProgressStyle::default_bar());
        let bar = ProgressBar::new(bytes).with_style(style).with_position(already);
        // What was there before must not count as speed.
        bar.reset_eta();
        Progress { bar, line: (!stderr().is_terminal()).then(Instant::now) }
    }

    /// That many bytes are there now.
    pub fn at(&mut self, bytes: u64) {
        self.bar.set_position(bytes);
        if self.line.is_some_and(|last| last.elapsed() >= LINE_EVERY) {
            self.line = Some(Instant::now());
            let total = DecimalBytes(self.bar.length().unwrap_or_default());
            eprintln!("  {} of {total}, {} left", DecimalBytes(bytes), HumanDuration(self.bar.eta()));
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
