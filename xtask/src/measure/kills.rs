//! Kills the small grid at random moments and compares what it ends with.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::Page;
use crate::failure::{At, Failure, Result};
use crate::setup::{self, Wishes};
use crate::workspace::{self, Workspace};

pub const DETAILS: &str = "\
Runs harness.small.yaml to its end, then again in another folder where it is killed 20 times, and compares all tables byte for byte.";

const KILLS: usize = 20;

/// Part of every run, as in the page.
const COMMAND: &str = "cmira run harness.small.yaml --out OUT --device cpu --threads 1";

/// Writes docs/results/grid.md.
pub fn run(workspace: &Workspace) -> Result<()> {
    setup::run(workspace, Wishes { conformance: false, cuda: false })?;
    let built = workspace::build(workspace)?;
    let folder = workspace.root().join("out/kills");
    if folder.exists() {
        fs::remove_dir_all(&folder).at(&folder)?;
    }
    fs::create_dir_all(&folder).at(&folder)?;
    let grid = |out: &Path| {
        let mut command = Command::new(&built);
        let file = workspace.root().join("harness.small.yaml");
        command.arg("run").arg(file).arg("--out").arg(out).args(["--device", "cpu", "--threads", "1", "--quiet"]);
        command.stdout(Stdio::null());
        command
    };
    let (whole, broken) = (folder.join("whole"), folder.join("broken"));
    eprintln!("==> undisturbed");
    let undisturbed = timed(&mut grid(&whole))?;
    let mut random = Random(20);
    let mut rows = Vec::new();
    for number in 1..=KILLS {
        let wait = Duration::from_secs_f64(0.2 + random.next() * undisturbed / 15.0);
        let mut child = grid(&broken).spawn().map_err(Failure::new)?;
        std::thread::sleep(wait);
        let ended = child.try_wait().map_err(Failure::new)?.is_some();
        child.kill().map_err(Failure::new)?;
        child.wait().map_err(Failure::new)?;
        let (done, step) = state(&broken);
        eprintln!("kill {number}: {done} steps done, in {step}");
        rows.push(vec![
            number.to_string(),
            format!("{:.1}", wait.as_secs_f64()),
            done.to_string(),
            if ended { "had ended".to_string() } else { step },
        ]);
    }
    timed(&mut grid(&broken))?;
    let tables = tables(&whole)?;
    let differing: Vec<&String> =
        tables.iter().filter(|name| fs::read(whole.join(name)).ok() != fs::read(broken.join(name)).ok()).collect();
    let again = timed(&mut grid(&broken))?;
    eprintln!("==> two steps at once");
    let beside = folder.join("beside");
    let at_once = timed(grid(&beside).args(["--jobs", "2"]))?;
    let differs_beside = tables.iter().filter(|name| fs::read(whole.join(name)).ok() != fs::read(beside.join(name)).ok()).count();

    let mut page = Page::new("The small grid, killed", "cargo xtask measure-kills");
    page.line(&format!(
        "`{COMMAND}`: two backbones, six methods, three ablations on drawn images, from nothing to all tables in {undisturbed:.0} s. In \
         another folder it was killed by SIGKILL {KILLS} times at random moments and started again each time, then left to its end.\n"
    ));
    page.line(&format!(
        "Tables that differ from those of the undisturbed run: **{}** of {} ({}). A start when everything is done takes {again:.2} s.\n",
        differing.len(),
        tables.len(),
        tables.join(", ")
    ));
    page.line(&format!(
        "With `--jobs 2`, two steps at once of one thread each, the whole takes {at_once:.0} s, and {differs_beside} of the tables differ from those of the \
         undisturbed run.\n"
    ));
    page.table(&["kill", "after, s", "steps done", "in the middle of"], &rows);
    page.write(workspace, "grid.md")?;
    match differing.first() {
        None if differs_beside > 0 => Err(Failure::new("two steps at once gave other tables")),
        None => Ok(()),
        Some(name) => Err(Failure::new(format!("{name} differs from that of the undisturbed run"))),
    }
}

/// Runs to the end and gives the seconds that it took.
fn timed(command: &mut Command) -> Result<f64> {
    let started = Instant::now();
    let status = command.status().map_err(Failure::new)?;
    if !status.success() {
        return Err(Failure::new(format!("{} failed ({status})", workspace::describe(command))));
    }
    Ok(started.elapsed().as_secs_f64())
}

/// How many steps of a grid are done, and the name of one that was begun and is not.
fn state(out: &Path) -> (usize, String) {
    let folders: Vec<PathBuf> =
        fs::read_dir(out.join("steps")).into_iter().flatten().filter_map(|entry| Some(entry.ok()?.path())).collect();
    let is_done = |folder: &&PathBuf| folder.join("done.json").exists();
    let open = folders.iter().find(|folder| !is_done(folder)).and_then(|folder| folder.file_name());
    let name = open.map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    // Without the hash.
    let name = name.rsplit_once('-').map_or(name.clone(), |(name, _)| name.to_string());
    (folders.iter().filter(is_done).count(), name)
}

fn tables(folder: &Path) -> Result<Vec<String>> {
    let entries = fs::read_dir(folder).at(folder)?;
    let mut names: Vec<String> =
        entries.filter_map(|entry| Some(entry.ok()?.file_name().to_string_lossy().into_owned())).collect();
    names.retain(|name| name.ends_with(".csv"));
    names.sort();
    Ok(names)
}

/// Numbers from 0 to 1: a linear congruential generator (Knuth's MMIX) is random enough to choose moments.
struct Random(u64);

impl Random {
    fn next(&mut self) -> f64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 11) as f64 / (1_u64 << 53) as f64
    }
}
