//! How the cost of training grows with batch, images, classes and parameters.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use plotters::prelude::*;
use serde_json::Value;

use super::{OutputWithStderr, Page};
use crate::failure::{At, Failure, Result};
use crate::setup::{self, Wishes};
use crate::workspace::{self, Workspace};

pub const DETAILS: &str = "\
Makes networks by `cmira train --epochs 0` and times them by `cmira bench`, while one of batch, images, classes and parameters grows. What was
timed is in out/growth and is not timed again; remove the folder to measure anew. Leave the machine alone meanwhile.";

const BATCHES: [usize; 7] = [4, 8, 16, 32, 64, 128, 256];
const IMAGES: [usize; 5] = [1024, 2048, 4096, 8192, 16384];
const CLASSES: [usize; 4] = [10, 100, 200, 1000];
const NETWORKS: [&str; 4] = ["resnet8", "vgg5", "resnet18", "vgg16"];

/// One curve's name, its colour, and its points.
type Curve = (&'static str, RGBColor, Vec<(f64, f64)>);

/// A part of the figure: both axes grow by factors.
struct Panel {
    title: &'static str,
    x: &'static str,
    y: &'static str,
    curves: Vec<Curve>,
}

/// Distinct for the colour-blind, and in grey.
const DARK: RGBColor = RGBColor(0, 68, 136);
const LIGHT: RGBColor = RGBColor(221, 170, 51);

struct Growth<'a> {
    workspace: &'a Workspace,
    binary: PathBuf,
    folder: PathBuf,
}

/// Writes docs/results/growth.md and growth.svg.
pub fn run(workspace: &Workspace) -> Result<()> {
    setup::run(workspace, Wishes { conformance: false, cuda: false })?;
    let growth = Growth { workspace, binary: workspace::build_released(workspace)?, folder: workspace.root().join("out/growth") };
    fs::create_dir_all(&growth.folder).at(&growth.folder)?;
    let mut page = Page::new("How cost grows", "cargo xtask measure-growth");
    page.line(
        "`cmira bench` in the precision that is chosen by itself: an inner epoch of mutual distillation, and evaluation in the same precision. The median \
         of three epochs; one process each. Memory is the most that the whole process had.\n\n![Seconds and memory over batch, images, classes and \
         multiplications](growth.svg)\n",
    );
    let mut panels = Vec::new();

    let name = |number: usize| number.to_string();
    let model = growth.network("resnet18", 10)?;
    let found = growth.series(&BATCHES, |batch| growth.timed(&model, batch, 128.max(2 * batch)))?;
    growth.table(&mut page, "Batch: ResNet18, 10 classes", "batch", &BATCHES.map(name), &found);
    let over = |key: &str, x: &[usize], found: &[Value]| -> Vec<(f64, f64)> {
        x.iter().zip(found).filter_map(|(&x, value)| Some((x as f64, value[key].as_f64()?))).collect()
    };
    panels.push(Panel {
        title: "ResNet18 by batch: images a second",
        x: "images in a batch",
        y: "images a second",
        curves: vec![
            ("training", DARK, over("train_images_per_s", &BATCHES, &found)),
            ("evaluation", LIGHT, over("eval_images_per_s", &BATCHES, &found)),
        ],
    });
    panels.push(Panel {
        title: "ResNet18 by batch: memory",
        x: "images in a batch",
        y: "MiB",
        curves: vec![("whole process", DARK, over("peak_rss_mb", &BATCHES, &found))],
    });

    let model = growth.network("resnet8", 10)?;
    let found = growth.series(&IMAGES, |images| growth.timed(&model, 64, images))?;
    growth.table(&mut page, "Images: the demonstration's ResNet8, batches of 64", "images", &IMAGES.map(name), &found);
    let seconds = |key: &str| -> Vec<(f64, f64)> {
        over(key, &IMAGES, &found).into_iter().map(|(images, rate)| (images, images / rate)).collect()
    };
    panels.push(Panel {
        title: "ResNet8 by images: seconds of an epoch",
        x: "images",
        y: "seconds",
        curves: vec![("training", DARK, seconds("train_images_per_s")), ("evaluation", LIGHT, seconds("eval_images_per_s"))],
    });

    let found = growth.series(&CLASSES, |classes| growth.timed(&growth.network("resnet18", classes)?, 64, 256))?;
    growth.table(&mut page, "Classes: ResNet18, batches of 64", "classes", &CLASSES.map(name), &found);
    panels.push(Panel {
        title: "ResNet18 by classes: images a second",
        x: "classes",
        y: "images a second",
        curves: vec![
            ("training", DARK, over("train_images_per_s", &CLASSES, &found)),
            ("evaluation", LIGHT, over("eval_images_per_s", &CLASSES, &found)),
        ],
    });

    let images = |network: &str| if matches!(network, "resnet8" | "vgg5") { 2048 } else { 256 };
    let timed = |network: &&str| growth.timed(&growth.network(network, 10)?, 64, images(network));
    let found = NETWORKS.iter().map(timed).collect::<Result<Vec<_>>>()?;
    let title = "Multiplications and parameters: the networks that are trained here, batches of 64";
    growth.table(&mut page, title, "network", &NETWORKS.map(String::from), &found);
    // A network's file is its parameters in float32, but for some kilobytes.
    let sizes: Vec<f64> = NETWORKS
        .iter()
        .map(|network| {
            let path = growth.network(network, 10)?;
            Ok(fs::metadata(&path).at(&path)?.len() as f64 / 4e6)
        })
        .collect::<Result<_>>()?;
    let costs: Vec<f64> = found.iter().map(|value| value["cost"]["multiplications"].as_f64().unwrap_or(f64::NAN) / 1e6).collect();
    let by = |sizes: &[f64], key: &str| -> Vec<(f64, f64)> {
        let point = |(&size, value): (&f64, &Value)| Some((size, 1e3 / value[key].as_f64()?));
        let mut points: Vec<(f64, f64)> = sizes.iter().zip(&found).filter_map(point).collect();
        points.sort_by(|a, b| a.0.total_cmp(&b.0));
        points
    };
    for (title, x, sizes) in [
        ("Four networks by multiplications: time of an image", "millions of multiplications, forwards", &costs),
        ("The same by parameters", "millions of parameters", &sizes),
    ] {
        let curves =
            vec![("training", DARK, by(sizes, "train_images_per_s")), ("evaluation", LIGHT, by(sizes, "eval_images_per_s"))];
        panels.push(Panel { title, x, y: "milliseconds an image", curves });
    }
    draw(&workspace.root().join("docs/results/growth.svg"), &panels)?;
    page.write(workspace, "growth.md")
}

impl Growth<'_> {
    fn series(&self, values: &[usize], time: impl Fn(usize) -> Result<Value>) -> Result<Vec<Value>> {
        values.iter().map(|&value| time(value)).collect()
    }

    /// An untrained network for 32 x 32 images of so many classes.
    fn network(&self, backbone: &str, classes: usize) -> Result<PathBuf> {
        let path = self.folder.join(format!("{backbone}-{classes}.onnx"));
        if path.exists() {
            return Ok(path);
        }
        let image = self.an_image()?;
        let images = self.folder.join(format!("images-{classes}"));
        for class in 0..classes {
            let class = images.join(format!("{class:04}"));
            fs::create_dir_all(&class).at(&class)?;
            fs::copy(&image, class.join("image.png")).at(&image)?;
        }
        let mut command = Command::new(&self.binary);
        command.args(["train", "--epochs", "0", "--backbone", backbone, "--device", "cpu", "--quiet", "--data"]);
        command.arg(&images).arg("--out").arg(&path).output_with_stderr()?;
        Ok(path)
    }

    fn an_image(&self) -> Result<PathBuf> {
        let folder = self.workspace.root().join("fixtures/images/probe/disc");
        let mut entries = fs::read_dir(&folder).at(&folder)?.filter_map(std::result::Result::ok).map(|entry| entry.path());
        entries.find(|path| path.extension().is_some_and(|end| end == "png")).ok_or_else(|| Failure::new("no image in fixtures/"))
    }

    /// What `cmira bench` says.
    fn timed(&self, model: &Path, batch: usize, images: usize) -> Result<Value> {
        let name = model.file_stem().unwrap_or_default().to_string_lossy();
        let record = self.folder.join(format!("{name}-{batch}-{images}.json"));
        if let Ok(text) = fs::read_to_string(&record) {
            return serde_json::from_str(&text).map_err(Failure::new);
        }
        eprintln!("==> {name}, {images} images in batches of {batch}");
        let (batch, images) = (batch.to_string(), images.to_string());
        let mut command = Command::new(&self.binary);
        command.args(["bench", "--json", "--device", "cpu", "--batch", &batch, "--images", &images]).arg(model);
        let text = command.output_with_stderr()?;
        let found = serde_json::from_str(text.trim()).map_err(Failure::new)?;
        fs::write(&record, text).at(&record)?;
        Ok(found)
    }

    fn table(&self, page: &mut Page, title: &str, first: &str, names: &[String], found: &[Value]) {
        page.line(&format!("## {title}\n"));
        let figure = |value: &Value, digits: usize| value.as_f64().map_or_else(String::new, |value| format!("{value:.digits$}"));
        let row = |(name, value): (&String, &Value)| {
            vec![
                name.clone(),
                figure(&value["train_images_per_s"], 1),
                figure(&value["eval_images_per_s"], 1),
                figure(&value["peak_rss_mb"], 0),
                figure(&value["import_s"], 3),
                figure(&(value["cost"]["multiplications"].as_f64().unwrap_or(f64::NAN) / 1e6).into(), 1),
            ]
        };
        let rows: Vec<Vec<String>> = names.iter().zip(found).map(row).collect();
        let header =
            [first, "training, images/s", "evaluation, images/s", "memory, MiB", "import, s", "million multiplications an image"];
        page.table(&header, &rows);
    }
}

/// The panels in two columns.
fn draw(path: &Path, panels: &[Panel]) -> Result<()> {
    let rows = panels.len().div_ceil(2);
    let area = SVGBackend::new(path, (960, 340 * u32::try_from(rows).unwrap_or(1))).into_drawing_area();
    let drawn = || -> std::result::Result<(), Box<dyn std::error::Error>> {
        area.fill(&WHITE)?;
        for (panel, area) in panels.iter().zip(area.split_evenly((rows, 2))) {
            panel_in(panel, &area)?;
        }
        area.present()?;
        Ok(())
    };
    drawn().map_err(|error| Failure::new(format!("{}: {error}", path.display())))
}

type Area<'a> = DrawingArea<SVGBackend<'a>, plotters::coord::Shift>;

fn panel_in(panel: &Panel, area: &Area<'_>) -> std::result::Result<(), Box<dyn std::error::Error>> {
    let points = || panel.curves.iter().flat_map(|(_, _, points)| points);
    // Below the curves there is room for their names.
    let span = |of: fn(&(f64, f64)) -> f64, below: f64, above: f64| {
        let least = points().map(of).fold(f64::INFINITY, f64::min);
        let most = points().map(of).fold(f64::NEG_INFINITY, f64::max);
        least / below..most * above
    };
    let mut chart = ChartBuilder::on(area)
        .caption(panel.title, ("sans-serif", 16))
        .margin(12)
        .x_label_area_size(40)
        .y_label_area_size(60)
        .build_cartesian_2d(span(|point| point.0, 1.3, 1.3).log_scale(), span(|point| point.1, 3.0, 1.6).log_scale())?;
    let plain = |value: &f64| format!("{value}");
    chart
        .configure_mesh()
        .x_desc(panel.x)
        .y_desc(panel.y)
        .x_labels(5)
        .y_labels(5)
        .x_label_formatter(&plain)
        .y_label_formatter(&plain)
        .light_line_style(WHITE)
        .draw()?;
    for (name, colour, points) in &panel.curves {
        let colour = *colour;
        chart
            .draw_series(LineSeries::new(points.iter().copied(), colour.stroke_width(2)).point_size(3))?
            .label(*name)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], colour.stroke_width(2)));
    }
    if panel.curves.len() > 1 {
        chart
            .configure_series_labels()
            .position(SeriesLabelPosition::LowerRight)
            .background_style(WHITE)
            .border_style(RGBColor(200, 200, 200))
            .draw()?;
    }
    Ok(())
}
