//! The page of a grid.

use std::path::{Path, PathBuf};

use super::words::{self, percent, points};
use super::{Card, Cell, FIGURES, Frame, Maps, Page, Reproduce, Section, Table, Verdict, known, settings, shell, write};
use crate::attack::Variant;
use crate::error::{Error, Place, Result};
use crate::files;
use crate::report::figures::{self, Confusion, Course, Figure, Polygon};
use crate::report::grid::{self, Cell as Attacked, Document, deviation_of, mean_of, summarised};
use crate::report::tables::distinct;
use crate::report::verdict::{PROBE_ONLY, SELF_TRAINING};
use crate::report::{Record, Summary, csv, excess, read};

/// Polygons on the page; all numbers are in tableA3.csv.
const MOST_POLYGONS: usize = 24;

/// Kinds of notes above the figures.
const MOST_KINDS: usize = 5;

/// Where scores begin among the columns of unlearning.csv.
const SCORES: usize = 6;

/// What a grid's page is made of.
struct Grid<'a> {
    folder: &'a Path,
    document: Document,
    /// Attacks on unlearned models, every seed.
    attacked: Vec<Record>,
    /// Their means over seeds.
    means: Vec<Record>,
    /// The variant that goes farthest.
    variant: &'static str,
}

/// Makes the tables, figures and page of a grid again, from what its folder holds; gives the files that were written. `progress` is told how
/// far the figures are.
///
/// # Errors
/// Data, where a file is missing or damaged; Unexpected, where the disk does not cooperate.
pub fn grid(folder: &Path, maps: Maps, progress: &(dyn Fn(usize, usize) + Sync)) -> Result<Vec<PathBuf>> {
    let document = Document::read(folder)?;
    document
        .results
        .cells
        .iter()
        .try_for_each(|cell| cell.record.check())
        .at(|| folder.join(grid::FILE).display().to_string())?;
    let tables = grid::write_all(folder, &document.results)?;
    let attacked = document.results.attacked();
    let means = summarised(&attacked, mean_of);
    let has = |variant: &Variant| attacked.iter().any(|record| record.variant == variant.name());
    let variant = Variant::ALL.into_iter().rev().find(has).unwrap_or_default().name();
    let page = Grid { folder, document, attacked, means, variant };
    let drawn = page.figures(maps, progress)?;
    let mut written = figures::write(&folder.join(FIGURES), &drawn)?;
    written.insert(0, write(folder, &page.page(drawn)?)?);
    written.extend(tables);
    Ok(written)
}

/// A verdict on one attacked model: how it is called, and the verdict's sentence.
struct Judged {
    record: Record,
    verdict: String,
}

impl Grid<'_> {
    /// Attacks by as much of the method as the grid has.
    fn whole(&self) -> impl Iterator<Item = &Record> {
        self.means.iter().filter(|record| record.variant == self.variant)
    }

    /// Attacks by the whole method, of the first seed of their data set and backbone.
    fn shown(&self) -> Vec<&Attacked> {
        let cells = &self.document.results.cells;
        let whole = |cell: &&Attacked| cell.record.variant == self.variant && cell.record.method != PROBE_ONLY;
        let first = |cell: &&Attacked| {
            let own = &cell.record;
            let same =
                cells.iter().find(|other| (&other.record.dataset, &other.record.backbone) == (&own.dataset, &own.backbone));
            same.is_some_and(|other| other.record.provenance.seed == own.provenance.seed)
        };
        cells.iter().filter(whole).filter(first).collect()
    }

    fn figures(&self, maps: Maps, progress: &(dyn Fn(usize, usize) + Sync)) -> Result<Vec<Figure>> {
        let mut all = Vec::new();
        let only = |records: Vec<Record>| -> Vec<Record> {
            records.into_iter().filter(|record| record.variant == self.variant).collect()
        };
        let deviations = only(summarised(&self.attacked, deviation_of));
        all.extend(figures::improvement(&only(self.means.clone()), &deviations)?);
        let polygon = |record| Polygon { title: title(record), classes: &record.classes };
        let polygons: Vec<Polygon> = self.whole().take(MOST_POLYGONS).map(polygon).collect();
        all.extend(figures::polygons(&polygons)?.map(|figure| match self.whole().count() {
            count if count > MOST_POLYGONS => Figure {
                caption: format!("{} {MOST_POLYGONS} of {count} models are shown; all are in tableA3.csv.", figure.caption),
                ..figure
            },
            _ => figure,
        }));
        all.extend(figures::boxes(&only(self.attacked.clone()))?);
        let shown = self.shown();
        let places = distinct(&shown, |cell| (cell.record.dataset.as_str(), cell.record.backbone.as_str()));
        for (place, (dataset, backbone)) in places.iter().enumerate() {
            progress(place, places.len());
            let here: Vec<&Attacked> = shown
                .iter()
                .filter(|cell| (cell.record.dataset.as_str(), cell.record.backbone.as_str()) == (*dataset, *backbone))
                .copied()
                .collect();
            let mut named = |figure: Option<Figure>, number: Option<usize>, of: &str| {
                all.extend(figure.map(|figure| Figure {
                    name: format!(
                        "{}-{}{}",
                        figure.name,
                        place + 1,
                        number.map_or_else(String::new, |number| format!("-{number}"))
                    ),
                    title: format!("{}: {of}", figure.title),
                    ..figure
                }));
            };
            let of = format!("{dataset}, {backbone}");
            named(self.courses(&here)?, None, &of);
            named(self.confusion(&here)?, None, &of);
            if maps == Maps::Drawn {
                for (number, cell) in here.iter().enumerate() {
                    let folder = files::below(self.folder, &cell.folder)?;
                    let summary = Summary::read(&folder)?;
                    let figure = super::audit::map_of(&folder, &summary, &|_, _| {})?;
                    named(figure, Some(number + 1), &title(&cell.record));
                }
            }
        }
        progress(places.len(), places.len());
        Ok(all)
    }

    fn courses(&self, cells: &[&Attacked]) -> Result<Option<Figure>> {
        let course = |cell: &&Attacked| -> Result<Course> {
            let own = read::course(&files::below(self.folder, &cell.folder)?)?
                .into_iter()
                .filter(|line| line.variant == self.variant)
                .collect();
            Ok(Course { title: title(&cell.record), own, control: Vec::new() })
        };
        figures::course(&cells.iter().map(course).collect::<Result<Vec<_>>>()?)
    }

    fn confusion(&self, cells: &[&Attacked]) -> Result<Option<Figure>> {
        let mut read = Vec::new();
        for cell in cells {
            let folder = files::below(self.folder, &cell.folder)?;
            let classes = Summary::read(&folder)?.classes;
            read.push((*cell, read::predictions(&folder, &classes)?, classes));
        }
        let mut matrices = Vec::new();
        for (cell, images, classes) in &read {
            let before = images.iter().filter_map(|image| Some((image.truth?, image.unlearned.class))).collect();
            let after = images.iter().filter_map(|image| Some((image.truth?, image.recovered.class))).collect();
            for (model, pairs) in [("M_U", before), ("M_A", after)] {
                matrices.push(Confusion { title: format!("{}, {model}", cell.record.method), pairs, classes });
            }
        }
        figures::confusion(&matrices)
    }

    /// Of every unlearned model, what its attack says beside the strictest control that all of its seeds have.
    fn judged(&self) -> Vec<Judged> {
        let rows = excess::rows(&self.document.results.cells);
        // Retraining is what the others are compared with.
        let unlearned = self.whole().filter(|record| record.method != excess::RETRAINED);
        let judge = |record: &Record| {
            let key = [&record.dataset, &record.backbone, &record.method, &record.variant].map(|name| csv::text(name));
            let own: Vec<&Vec<String>> = rows
                .iter()
                .filter(|row| row.len() == excess::COLUMNS.len() && row[..4] == key && row[4] != SELF_TRAINING)
                .filter(|row| !excess_column(row, "verdict").is_empty())
                .collect();
            let seeds =
                self.attacked.iter().filter(|other| title(other) == title(record) && other.variant == record.variant).count();
            let over_all = own.iter().find(|row| excess_column(row, "seed") == "all");
            // Seeds that have no such control would be left out without a word.
            let chosen = if seeds > 1 { over_all } else { own.first() }?;
            Some(Judged { record: record.clone(), verdict: excess_column(chosen, "verdict") })
        };
        unlearned.filter_map(judge).collect()
    }

    fn page(&self, figures: Vec<Figure>) -> Result<Page<'_>> {
        let judged = self.judged();
        let (overall, by_cell): (Vec<Figure>, Vec<Figure>) =
            figures.into_iter().partition(|figure| ["improvement", "polygons", "boxes"].contains(&figure.name.as_str()));
        let sections = vec![
            Section {
                id: "recovery",
                title: "What came back",
                figures: overall,
                tables: vec![self.attacks(), self.classes(), self.excess()],
                ..Section::default()
            },
            Section {
                id: "cells",
                title: "Attack by attack",
                about: "Attacks of the first seed.".to_string(),
                figures: by_cell,
                ..Section::default()
            },
            Section {
                id: "models",
                title: "The models",
                tables: vec![self.unlearned(), self.methods(), self.splits(), self.notes()],
                ..Section::default()
            },
            Section {
                id: "settings",
                title: "Settings",
                about: "Every setting of the grid. What is left to a method (-) is in the table of the methods' settings. An attack model has the \
                        backbone of the audited one, and every attack the seed of its models."
                    .to_string(),
                facts: settings(&self.document.settings)
                    .into_iter()
                    .filter(|(key, _)| !["attack.backbone", "attack.seed"].contains(&key.as_str()))
                    .collect(),
                ..Section::default()
            },
        ];
        let provenance = self.attacked.first().map(|record| &record.provenance);
        let p = provenance.ok_or_else(|| Error::data("holds no attack").at(self.folder.display()))?;
        let seeds = distinct(&self.attacked, |record| record.provenance.seed);
        let facts = [
            ("Given in", self.document.working_directory.clone()),
            ("Version", format!("cmira {}, libtorch {}", self.document.cmira, p.libtorch)),
            ("Device", format!("{}, {} threads, taught in {}", p.device, p.threads, p.precision)),
            ("Seeds", seeds.iter().map(u64::to_string).collect::<Vec<_>>().join(", ")),
        ];
        Ok(Page {
            title: "Attacks on unlearned models",
            subtitle: format!(
                "{} attacks by {}, {} models, {}",
                self.attacked.iter().filter(|record| record.variant == self.variant).count(),
                self.variant,
                self.whole().count(),
                if seeds.len() == 1 { "one seed".to_string() } else { format!("{} seeds", seeds.len()) }
            ),
            verdict: verdict(&judged, self.variant),
            cards: self.cards(),
            notes: self.notes_by_kind(),
            sections,
            reproduce: Reproduce {
                about: "The same command with the same file, version, device and number of threads gives the same tables, to the last byte on a \
                        CPU. Hashes of models, images and settings stand in results.csv, beside every number."
                    .to_string(),
                command: shell(&self.document.command),
                facts: known(facts),
            },
            limits: words::limits(true, seeds.len()),
            words: [words::meanings(), words::of_grids()].concat(),
            frame: Frame::new(),
        })
    }

    fn cards(&self) -> Vec<Card> {
        // A retrained model has nothing to give away.
        let unlearned = || self.whole().filter(|record| record.method != excess::RETRAINED);
        let most = |value: fn(&Record) -> Option<f64>| {
            let known = || unlearned().filter_map(|record| Some((record, value(record)?)));
            let largest = known().max_by(|a, b| a.1.total_cmp(&b.1))?;
            Some((largest.0, largest.1, known().filter(|other| other.1.total_cmp(&largest.1).is_eq()).count()))
        };
        let mut cards = Vec::new();
        for (name, found, shown) in [
            ("Largest R_I (RT left out)", most(|record| record.r_i), points as fn(Option<f64>) -> String),
            ("Largest excess (RT left out)", most(|record| record.excess), points),
        ] {
            cards.extend(found.map(|(record, value, as_large)| Card {
                name,
                value: shown(Some(value)),
                about: if as_large == 1 { title(record) } else { format!("{as_large} models") },
            }));
        }
        cards
    }

    fn attacks(&self) -> Table {
        let rows = self.means.iter().map(|record| {
            let r = record;
            let mut row = [&r.dataset, &r.backbone, &r.method, &r.variant].map(Cell::text).into_iter().collect::<Vec<_>>();
            row.extend([r.acc_u, r.acc_a_last, r.r_i, r.r_r, r.a_r, r.excess, r.acc_u_after].map(Cell::percent));
            row.push(Cell::text(r.control.as_deref().unwrap_or_default()));
            row
        });
        let columns = [
            "data set",
            "backbone",
            "method",
            "variant",
            "Acc_U",
            "Acc_A",
            "R_I",
            "R_R",
            "A_R",
            "excess",
            "Acc_U then",
            "control",
        ];
        let about = "Means over seeds; R_I and excess in points, all else in percent. P is stage 1 alone, P+U teaches the attack model, \
                     P+U+A both. With Tables 1, 3, A4 and A5 as CSV.";
        Table::new("attacks", "Every attack", about, &columns, rows.collect())
    }

    fn classes(&self) -> Table {
        let rows = self.whole().flat_map(|record| {
            record.classes.iter().map(|class| {
                let mut row = [&record.dataset, &record.backbone, &record.method, &class.class]
                    .map(Cell::text)
                    .into_iter()
                    .collect::<Vec<_>>();
                row.push(Cell::count(class.images));
                row.extend([Some(class.acc_u), Some(class.acc_a), Some(class.r_i)].map(Cell::percent));
                row
            })
        });
        let columns = ["data set", "backbone", "method", "class", "images", "Acc_U", "Acc_A", "R_I"];
        let about = "Of the whole attack, means over seeds. With Tables 2 and A3 as CSV.";
        Table::new("classes", "By forgetting class", about, &columns, rows.collect())
    }

    fn excess(&self) -> Table {
        let rows = excess::rows(&self.document.results.cells).into_iter().map(|row| {
            let get = |name: &str| excess_column(&row, name);
            let number = |name: &str| get(name).parse::<f64>().ok();
            let named = ["dataset", "backbone", "method", "variant", "control", "seed"].map(|name| Cell::plain(&get(name)));
            let mut cells: Vec<Cell> = named.into_iter().collect();
            cells.extend(
                ["acc_a", "acc_a_control", "excess", "excess_low", "excess_high"].map(|name| Cell::percent(number(name))),
            );
            cells.push(Cell::probability(number("mcnemar_p")));
            let verdict = get("verdict");
            cells.push(Cell::text(match verdict.split_whitespace().next() {
                Some(word @ ("more" | "less")) => word,
                Some(_) => "no difference",
                None => "",
            }));
            cells
        });
        let columns = [
            "data set",
            "backbone",
            "method",
            "variant",
            "control",
            "seed",
            "Acc_A",
            "control's",
            "excess",
            "from",
            "to",
            "p",
            "shown",
        ];
        let about = "Every attack beside the same attack on each control, in points, with the 95 % interval and McNemar's p; the seed 'all' is over \
                     seeds. In full in excess.csv.";
        Table::new("excess", "Beyond the controls", about, &columns, rows.collect())
    }

    /// What is said of single steps, each kind once: notes that differ in numbers alone are of one kind.
    fn notes_by_kind(&self) -> Vec<String> {
        let mut kinds: Vec<(String, &str, &str, usize)> = Vec::new();
        for note in &self.document.results.notes {
            let (step, text) = note.split_once(": ").unwrap_or(("", note));
            let kind = text.replace(|c: char| c.is_ascii_digit(), "");
            match kinds.iter_mut().find(|known| known.0 == kind) {
                Some(known) => known.3 += 1,
                None => kinds.push((kind, step, text, 1)),
            }
        }
        kinds.sort_by_key(|kind| std::cmp::Reverse(kind.3));
        let more = kinds.len().saturating_sub(MOST_KINDS);
        let said = kinds.iter().take(MOST_KINDS).map(|(_, step, text, count)| match count {
            1 => format!("{step}: {}", words::sentence(text)),
            count => format!("{count} steps, such as {step}: {}", words::sentence(text)),
        });
        let said: Vec<String> = said.collect();
        if more == 0 { said } else { [said, vec![format!("{more} more kinds of notes are among the models below.")]].concat() }
    }

    /// What a reader should know of single steps.
    fn notes(&self) -> Table {
        let rows = self.document.results.notes.iter().map(|note| {
            let (step, text) = note.split_once(": ").unwrap_or(("", note));
            vec![Cell::text(step), Cell::text(words::sentence(text))]
        });
        Table::new("notes", "Notes on single steps", "", &["step", "note"], rows.collect())
    }

    fn unlearned(&self) -> Table {
        let cell =
            |(place, text): (usize, &String)| if place < SCORES { Cell::plain(text) } else { Cell::percent(text.parse().ok()) };
        let rows = self.document.results.unlearned.iter().map(|row| row.cells().iter().enumerate().map(cell).collect()).collect();
        let columns: Vec<String> = grid::UNLEARNING.iter().map(|name| name.replace('_', " ")).collect();
        let columns: Vec<&str> = columns.iter().map(String::as_str).collect();
        Table::new("unlearned", "Scores of the models", "Accuracies and MIA efficacy in percent.", &columns, rows)
    }

    fn methods(&self) -> Table {
        let rows = self.document.results.methods.iter();
        let rows = rows.map(|row| row.cells().iter().map(|text| Cell::plain(text)).collect()).collect();
        Table::new("methods", "Settings of the methods", "Table A2.", &grid::METHOD_COLUMNS, rows)
    }

    fn splits(&self) -> Table {
        let rows = self.document.results.splits.iter();
        let rows = rows.map(|row| row.cells().iter().map(|text| Cell::plain(text)).collect()).collect();
        Table::new("splits", "Splits", "Table A1.", &grid::SPLIT_COLUMNS, rows)
    }
}

/// A cell of a row of `excess.csv`.
fn excess_column(row: &[String], name: &str) -> String {
    excess::COLUMNS.iter().position(|known| *known == name).and_then(|place| row.get(place)).cloned().unwrap_or_default()
}

fn title(record: &Record) -> String {
    format!("{}, {}, {}", record.dataset, record.backbone, record.method)
}

fn verdict(judged: &[Judged], variant: &str) -> Verdict {
    if judged.is_empty() {
        let headline =
            "No verdict: no unlearned model was attacked that can be compared with a control over all seeds".to_string();
        return Verdict { tone: "open", headline, sentences: Vec::new() };
    }
    let those = |word: &str| -> Vec<&Judged> { judged.iter().filter(|one| one.verdict.starts_with(word)).collect() };
    let (more, less) = (those("more"), those("less"));
    let headline = if more.is_empty() {
        format!("From none of {} unlearned models more is shown to come back than from its control", judged.len())
    } else {
        format!("From {} of {} unlearned models more comes back than from its control", more.len(), judged.len())
    };
    let mut sentences: Vec<String> = more
        .iter()
        .chain(&less)
        .map(|Judged { record, verdict }| {
            format!(
                "{} (Acc_U {}, Acc_A {}): {}",
                title(record),
                percent(record.acc_u),
                percent(record.acc_a_last),
                words::sentence(verdict)
            )
        })
        .collect();
    if more.iter().any(|one| one.record.r_i.is_some_and(|gain| gain <= 0.0)) {
        sentences.push(
            "Where Acc_A is not above Acc_U, the attack gets in sum no more right than the model still knew by itself."
                .to_string(),
        );
    }
    sentences.push(format!(
        "By {variant}, beside the strictest control that the grid has for every seed. Every comparison by itself is made at a level of 5 %: of \
         many, some come out by chance."
    ));
    Verdict { tone: if more.is_empty() { "none" } else { "more" }, headline, sentences }
}
