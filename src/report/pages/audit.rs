//! The page of one audit.

mod listed;

use std::path::{Path, PathBuf};

use super::words::{self, percent, points};
use super::{Card, FIGURES, Frame, Maps, Page, Reproduce, Section, Verdict, known, settings, shell, write};
use crate::error::{Error, Place, Result};
use crate::files;
use crate::report::consistent;
use crate::report::figures::{self, Confusion, Course, Figure, Map, Point, Polygon, Tile};
use crate::report::read::{self, CourseLine, Predicted, Said};
use crate::report::summary::{self, Thumbnails, spread};
use crate::report::{Record, Summary, csv, maps, tables};

/// Pictures on a contact sheet.
const MOST_TILES: usize = 140;

/// An audit as it lies in its folder.
struct Audit<'a> {
    folder: &'a Path,
    summary: Summary,
    course: Vec<CourseLine>,
    control: Vec<CourseLine>,
    /// What the same attack gave on the control.
    control_records: Vec<Record>,
    images: Vec<Predicted>,
}

/// Makes the tables, figures and page of an audit again, from what its folder holds; gives the files that were written. `progress` is told how
/// far the maps of features are.
///
/// # Errors
/// Data, where a file is missing or damaged; Unexpected, where the disk does not cooperate.
pub fn audit(folder: &Path, maps: Maps, progress: &(dyn Fn(usize, usize) + Sync)) -> Result<Vec<PathBuf>> {
    let summary = Summary::read(folder)?;
    summary.records.iter().try_for_each(Record::check).at(|| folder.join(summary::FILE).display().to_string())?;
    let tables = tables::write_all(folder, &summary.records)?;
    let (control, control_records) = match &summary.control_folder {
        Some(control) => {
            let control = files::below(folder, control)?;
            let records = Summary::read(&control)?.records;
            records.iter().try_for_each(Record::check).at(|| control.join(summary::FILE).display().to_string())?;
            let course = read::course(&control)?;
            consistent::courses(&control, &records, &course)?;
            (course, records)
        }
        None => (Vec::new(), Vec::new()),
    };
    let images = read::predictions(folder, &summary.classes)?;
    let course = read::course(folder)?;
    if let Some(record) = summary.records.last() {
        consistent::predictions(folder, record, &images)?;
        consistent::verdict(folder, record, summary.verdicts.first())?;
    }
    consistent::courses(folder, &summary.records, &course)?;
    let audit = Audit { course, folder, summary, control, control_records, images };
    let drawn = audit.figures(maps, progress)?;
    let mut written = figures::write(&folder.join(FIGURES), &drawn)?;
    let page = write(folder, &audit.page(drawn)?)?;
    // It shows what was recovered of every image.
    files::make_private(&page)?;
    written.insert(0, page);
    written.extend(tables);
    Ok(written)
}

impl Audit<'_> {
    fn headline(&self) -> Option<&Record> {
        self.summary.records.last()
    }

    fn labelled(&self) -> bool {
        self.images.iter().any(|image| image.truth.is_some())
    }

    /// What the attack model gets right of the forget images before it is taught anything, percent.
    fn after_stage_one(&self) -> Option<f64> {
        self.course.iter().find(|line| line.iteration == 0).and_then(|line| line.acc_a)
    }

    fn class(&self, place: usize) -> &str {
        self.summary.classes.get(place).map_or("", String::as_str)
    }

    fn figures(&self, wanted: Maps, progress: &(dyn Fn(usize, usize) + Sync)) -> Result<Vec<Figure>> {
        let mut all = Vec::new();
        let variant = self.headline().map_or("", |record| record.variant.as_str());
        let of =
            |lines: &[CourseLine]| -> Vec<CourseLine> { lines.iter().filter(|line| line.variant == variant).cloned().collect() };
        let (own, control) = (of(&self.course), of(&self.control));
        all.extend(figures::course(&[Course { title: String::new(), own, control }])?);
        if let Some(record) = self.headline() {
            let title = words::named(record);
            all.extend(figures::polygons(&[Polygon { title, classes: &record.classes }])?);
        }
        let pairs = |said: fn(&Predicted) -> Said| -> Vec<(usize, usize)> {
            self.images.iter().filter_map(|image| Some((image.truth?, said(image).class))).collect()
        };
        let matrix =
            |title: &str, said| Confusion { title: title.to_string(), pairs: pairs(said), classes: &self.summary.classes };
        all.extend(figures::confusion(&[
            matrix("M_U, before the attack", |image| image.unlearned),
            matrix("M_A after stage 1", |image| image.pretrained),
            matrix("M_A after the attack", |image| image.recovered),
        ])?);
        all.extend(figures::confidence(self.sureness())?);
        if wanted == Maps::Drawn {
            all.extend(map_of(self.folder, &self.summary, progress)?);
        }
        if let Some(pictures) = &self.summary.thumbnails {
            all.extend(self.sheets(pictures)?);
        }
        Ok(all)
    }

    /// How sure the models are of every image whose class is known, and whether they are right.
    fn sureness(&self) -> [figures::Sureness; 2] {
        let sure = |said: fn(&Predicted) -> Said| -> Vec<(f64, bool)> {
            let of = |image: &Predicted| Some((said(image).confidence, said(image).class == image.truth?));
            self.images.iter().filter_map(of).collect()
        };
        [("M_U, before the attack", sure(|image| image.unlearned)), ("M_A", sure(|image| image.recovered))]
    }

    /// Pictures of images whose class came back, and of those whose did not.
    fn sheets(&self, pictures: &Thumbnails) -> Result<Vec<Figure>> {
        let path = files::below(self.folder, &pictures.file)?;
        if pictures.width == 0 || pictures.height == 0 || pictures.columns == 0 {
            return Err(Error::data("says of its pictures that they have no size").at(self.folder.join(summary::FILE).display()));
        }
        let all = image::open(&path).map_err(|error| Error::data(error).at(path.display()))?.into_rgb8();
        let shown = spread(self.images.len(), pictures.count);
        // An image is shown with what the models say of it.
        let lost = |image: &Predicted| image.truth.is_some_and(|truth| image.unlearned.class != truth);
        let back = |image: &Predicted| image.truth == Some(image.recovered.class);
        let mut sheets = Vec::new();
        for (name, title, wanted) in [
            ("recovered", "Images whose class came back", true),
            ("not_recovered", "Images whose class did not come back", false),
        ] {
            let found: Vec<(usize, &Predicted)> = shown
                .iter()
                .enumerate()
                .filter_map(|(tile, &image)| Some((tile, self.images.get(image)?)))
                .filter(|(_, image)| lost(image) && back(image) == wanted)
                .collect();
            let of = self.images.iter().filter(|image| lost(image) && back(image) == wanted).count();
            let chosen = spread(found.len(), MOST_TILES);
            let tiles = chosen.iter().map(|&place| self.tile(&all, pictures, found[place])).collect::<Result<Vec<Tile>>>();
            sheets.extend(figures::sheet(name, title, &tiles.at(|| path.display())?, of)?);
        }
        Ok(sheets)
    }

    fn tile(&self, all: &image::RgbImage, pictures: &Thumbnails, (tile, image): (usize, &Predicted)) -> Result<Tile> {
        let place = u32::try_from(tile).map_err(Error::unexpected)?;
        let columns = pictures.columns.max(1);
        let (x, y) = ((place % columns).saturating_mul(pictures.width), (place / columns).saturating_mul(pictures.height));
        if x.saturating_add(pictures.width) > all.width() || y.saturating_add(pictures.height) > all.height() {
            return Err(Error::data(format!("has no picture {tile}")).help("run the audit again"));
        }
        let picture = image::imageops::crop_imm(all, x, y, pictures.width, pictures.height).to_image();
        let mut png = std::io::Cursor::new(Vec::new());
        picture.write_to(&mut png, image::ImageFormat::Png).map_err(Error::unexpected)?;
        let class = image.truth.map_or("", |class| self.class(class)).to_string();
        let words = format!(
            "{}: {class}. M_U said {}, M_A says {} (confidence {:.2})",
            image.image,
            self.class(image.unlearned.class),
            self.class(image.recovered.class),
            image.recovered.confidence
        );
        let (size, name) = ((pictures.width, pictures.height), image.image.clone());
        Ok(Tile { png: png.into_inner(), size, class, name, words, confidence: image.recovered.confidence })
    }

    fn page(&self, figures: Vec<Figure>) -> Result<Page<'_>> {
        let summary = &self.summary;
        let record = self.headline().ok_or_else(|| Error::data("holds no result").at(self.folder.display()))?;
        let (pictures, others): (Vec<Figure>, Vec<Figure>) = figures.into_iter().partition(|figure| figure.private);
        let sections = vec![
            Section {
                id: "recovery",
                title: "What came back",
                figures: others,
                tables: vec![self.variants(), self.classes(record), self.confidences(), self.said()],
                ..Section::default()
            },
            Section {
                id: "images",
                title: "Images",
                about: if !pictures.is_empty() {
                    "Only images to which the model as it was handed over gave a wrong class are on these sheets.".to_string()
                } else {
                    String::new()
                },
                figures: pictures,
                tables: vec![self.predictions()],
                ..Section::default()
            },
            Section { id: "audited", title: "What was audited", facts: self.audited(record), ..Section::default() },
            Section {
                id: "settings",
                title: "Settings",
                about: "Every setting of the attack and of how images are turned into numbers.".to_string(),
                facts: self.settings()?,
                ..Section::default()
            },
        ];
        Ok(Page {
            title: "Audit of an unlearned model",
            subtitle: words::subject(&summary.model_file, record),
            verdict: self.verdict(record),
            cards: cards(record, self.after_stage_one()),
            notes: summary.notes.iter().map(|note| words::sentence(note)).chain([SEEDS.to_string()]).collect(),
            sections,
            reproduce: self.reproduce(),
            limits: words::limits(self.labelled(), 1),
            words: words::meanings(),
            frame: Frame::new(),
        })
    }

    fn verdict(&self, record: &Record) -> Verdict {
        let (headline, tone) = match self.summary.verdicts.first() {
            Some(verdict) => {
                let (headline, tone) = words::headline(verdict);
                // Both are true, and either alone would mislead.
                let also = if ["more", "some"].contains(&tone) && record.r_i.is_some_and(|gain| gain <= 0.0) {
                    ", but in sum no more than the model still knew"
                } else {
                    ""
                };
                (format!("{headline}{also}"), tone)
            }
            None if !self.labelled() => ("No verdict: the true classes of the forget images are not known".to_string(), "open"),
            None => ("No verdict: there is no control to compare with".to_string(), "open"),
        };
        let (headline, tone) = match words::unreliable(&self.summary, record) {
            Some(why) => (why, "open"),
            None => (headline, tone),
        };
        let mut sentences: Vec<String> = words::effect(record).into_iter().collect();
        sentences.extend(words::no_gain(record).map(ToString::to_string));
        sentences.extend(words::back_and_lost(&self.images));
        sentences.extend(self.summary.verdicts.first().map(|verdict| words::sentence(verdict)));
        sentences.extend(self.summary.verdicts.iter().skip(1).map(|verdict| format!("Besides: {}", words::sentence(verdict))));
        if self.labelled() && self.summary.control.is_none() {
            sentences.push("No control was run, so that nothing can be said of a leak.".to_string());
        }
        if !self.labelled() {
            sentences.push(format!(
                "In the end both models agree on {:.1} % of the forget images; what they say of each is in predictions.csv.",
                100.0 * record.agreement_rate
            ));
        }
        Verdict { tone, headline, sentences }
    }

    fn audited(&self, record: &Record) -> Vec<(String, String)> {
        let (summary, p) = (&self.summary, &self.summary.provenance);
        let mut facts = Vec::new();
        let mut add = |name: &str, value: String| facts.push((name.to_string(), value));
        add("Model", summary.model_file.clone());
        add("SHA-256 of the file", p.model_sha256.clone());
        add("Trainable tensors", summary.trainable.to_string());
        add("Repaired at import", if summary.repairs.is_empty() { "nothing".to_string() } else { summary.repairs.join("; ") });
        add(
            "Agreement with ONNX Runtime",
            summary.parity.as_ref().map_or_else(
                || "not compared; see the notes above".to_string(),
                |parity| {
                    format!(
                        "on {} forget images outputs differ by at most {:.1e} (of the largest output: {:.1e}; allowed {:.0e}), the same class \
                         for {:.1} %",
                        parity.images,
                        parity.max_abs,
                        parity.max_rel,
                        parity.tolerance,
                        100.0 * parity.argmax_agreement
                    )
                },
            ),
        );
        let left = |count: usize| if count == 0 { String::new() } else { format!(", {count} files left out (left_out.csv)") };
        add(
            "Forget images",
            format!("{} images, {} with known class{}", record.n_forget, record.n_scored, left(summary.left_out.forget)),
        );
        add("SHA-256 of the forget set", p.forget_sha256.clone());
        add(
            "Probing images",
            format!("{} images of {} classes{}", record.n_probe, summary.classes.len(), left(summary.left_out.probe)),
        );
        add("SHA-256 of the probing set", p.probe_sha256.clone());
        add("The model's accuracy on them", percent(summary.probe_accuracy));
        add("In both sets", summary.shared_images.to_string());
        add(
            "Control",
            match (&summary.control, &summary.control_sha256) {
                (Some(name), Some(sha)) => format!("{name}, SHA-256 {sha}"),
                _ => "none".to_string(),
            },
        );
        add(
            "Attack model after stage 1",
            [
                self.after_stage_one().map(|all| format!("{} of the forget images (the variant P)", percent(Some(all)))),
                summary
                    .probe_learned_accuracy
                    .map(|all| format!("{} of the probing images that it was trained on", percent(Some(all)))),
                Some(match summary.probe_holdout_accuracy {
                    Some(accuracy) => format!("{} of those held out", percent(Some(accuracy))),
                    None => "none were held out".to_string(),
                }),
            ]
            .into_iter()
            .flatten()
            .collect::<Vec<String>>()
            .join("; "),
        );
        add("Ended after", summary.ended());
        facts
    }

    fn settings(&self) -> Result<Vec<(String, String)>> {
        // Through text, in which single-precision numbers are as short as people wrote them.
        let both = serde_json::to_string(&(&self.summary.settings, &self.summary.adapter)).map_err(Error::unexpected)?;
        let [attack, adapter]: [serde_json::Value; 2] = serde_json::from_str(&both).map_err(Error::unexpected)?;
        Ok(settings(&serde_json::json!({ "attack": attack, "adapter": adapter })))
    }

    fn reproduce(&self) -> Reproduce {
        let (summary, p) = (&self.summary, &self.summary.provenance);
        let facts = [
            ("Given in", summary.working_directory.clone()),
            ("Version", format!("cmira {}, libtorch {}", p.cmira, p.libtorch)),
            ("Device", format!("{}, {} threads, taught in {}", p.device, p.threads, p.precision)),
            ("Seed", p.seed.to_string()),
            ("SHA-256 of the settings", p.settings_sha256.clone()),
            ("SHA-256 of the adapter", p.adapter_sha256.clone()),
            ("Time", format!("{:.0} s in all runs of it, without the control", summary.seconds)),
        ];
        Reproduce {
            about: "The same command on the same files, with the same version, device and number of threads, gives the same numbers; on a CPU \
                    to the last byte of every table."
                .to_string(),
            command: if summary.command.is_empty() { "(made by a step of a grid)".to_string() } else { shell(&summary.command) },
            facts: known(facts),
        }
    }
}

/// The map of the features that an audit kept, if it kept any.
pub(super) fn map_of(folder: &Path, summary: &Summary, progress: &(dyn Fn(usize, usize) + Sync)) -> Result<Option<Figure>> {
    let Some(kept) = &summary.features else { return Ok(None) };
    let made = maps::maps(folder, kept, summary.provenance.seed, progress)?;
    // The forgetting classes, in the order of all classes; where none is known, those of the probing images.
    let known = made.rows.iter().any(|row| row.set == "forget" && !row.class.is_empty());
    let coloured = |name: &str| made.rows.iter().any(|row| (row.set == "forget" || !known) && row.class == csv::text(name));
    let forgetting: Vec<String> = summary.classes.iter().filter(|name| coloured(name)).cloned().collect();
    let place = |name: &str| forgetting.iter().position(|class| csv::text(class) == name);
    let laid: Vec<Map> = made
        .layouts
        .iter()
        .filter(|layout| !layout.places.is_empty())
        .map(|layout| Map {
            title: layout.title().to_string(),
            silhouettes: [layout.silhouette_features, layout.silhouette_map],
            points: made
                .rows
                .iter()
                .zip(&layout.places)
                .map(|(row, at)| Point {
                    at: *at,
                    class: place(&row.class),
                    forget: row.set == "forget",
                    name: row.image.clone(),
                })
                .collect(),
        })
        .collect();
    figures::map(&laid, &forgetting, known)
}

/// Stands below the notes of every audit: an interval over images looks like all there is to be unsure of.
const SEEDS: &str = "Another seed of the attack gives other numbers, often by more than these intervals: try some (--seed, with an --out of \
                     its own), or use a grid.";

fn cards(record: &Record, after_stage_one: Option<f64>) -> Vec<Card> {
    let mut cards = vec![
        Card {
            name: "Stage 1",
            value: percent(after_stage_one),
            about: "of the forget images right by the probing images alone".to_string(),
        },
        Card { name: "Acc_U", value: percent(record.acc_u), about: "of the forget images right before the attack".to_string() },
        Card { name: "Acc_A", value: percent(record.acc_a_last), about: "of them right after the attack".to_string() },
        Card {
            name: "R_I",
            value: points(record.r_i),
            about: format!("points{}", words::interval(record.r_i_low, record.r_i_high)),
        },
        Card { name: "R_R", value: percent(record.r_r), about: "R_I relative to Acc_U".to_string() },
        Card { name: "A_R", value: percent(record.a_r), about: "growth of the polygon of classes".to_string() },
    ];
    if record.excess.is_some() {
        let p = record
            .excess_p
            .map_or_else(String::new, |p| format!(", p {}", if p < 0.001 { "< 0.001".to_string() } else { format!("{p:.3}") }));
        cards.push(Card {
            name: "Excess",
            value: points(record.excess),
            about: format!("points over the control{}{p}", words::interval(record.excess_low, record.excess_high)),
        });
    }
    cards.push(Card {
        name: "Acc_U then",
        value: percent(record.acc_u_after),
        about: match record.excess_u {
            Some(_) => format!("right by the model itself after the attack; {} points over the control", points(record.excess_u)),
            None => "right by the model itself after the attack".to_string(),
        },
    });
    cards.retain(|card| card.value != "-");
    cards
}
