//! The tables of an audit's page.

use super::Audit;
use crate::attack::Variant;
use crate::report::Record;
use crate::report::figures;
use crate::report::pages::{Cell, Table};
use crate::report::read::{Predicted, Said};
use crate::report::summary::spread;

/// Images that the page lists; all are in `predictions.csv`.
const MOST_ROWS: usize = 500;

impl Audit<'_> {
    pub(super) fn variants(&self) -> Table {
        // What does not depend on the model is the same for the control.
        let of_control = |record: &&Record| ![Variant::P, Variant::PA].map(Variant::name).contains(&record.variant.as_str());
        let own = self.summary.records.iter().map(|record| (record, ""));
        let control = self.control_records.iter().filter(of_control).map(|record| (record, record.method.as_str()));
        let rows = own.chain(control).map(|(r, control)| {
            let mut row = vec![Cell::text(&r.variant), Cell::text(control)];
            row.extend([r.acc_u, r.acc_a_last, r.acc_a_best, r.r_i, r.r_r, r.a_r, r.excess, r.acc_u_after].map(Cell::percent));
            row.push(Cell::percent(Some(100.0 * r.agreement_rate)));
            row.push(Cell::count(r.iterations));
            row
        });
        let columns = [
            "variant",
            "control",
            "Acc_U",
            "Acc_A",
            "Acc_A best",
            "R_I",
            "R_R",
            "A_R",
            "excess",
            "Acc_U then",
            "agreement",
            "iterations",
        ];
        let about = "Percent of the forget images, R_I and excess in points. P is stage 1 alone, P+U teaches the attack model, P+U+A both; \
                     P+A is the attack model teaching itself. The best iteration is known only to who has the labels. Where a control is named, the \
                     row is of the same attack on it.";
        Table::new("variants", "By variant of the attack", about, &columns, rows.collect())
    }

    pub(super) fn classes(&self, record: &Record) -> Table {
        let rows = record.classes.iter().map(|class| {
            let mut row = vec![Cell::text(&class.class), Cell::count(class.images)];
            row.extend([Some(class.acc_u), Some(class.acc_a), Some(class.r_i)].map(Cell::percent));
            row
        });
        let about = format!("Of the variant {}, in percent of the class's forget images; R_I in points.", record.variant);
        Table::new("classes", "By forgetting class", &about, &["class", "images", "Acc_U", "Acc_A", "R_I"], rows.collect())
    }

    /// The numbers behind the figure of recovery against confidence.
    pub(super) fn confidences(&self) -> Table {
        let [unlearned, attack] = self.sureness().map(|(_, images)| figures::bins(&images));
        let both = unlearned.into_iter().zip(attack).enumerate().filter(|(_, (u, a))| u.images + a.images > 0);
        let rows = both.map(|(place, (u, a))| {
            vec![
                Cell::text(figures::range(place)),
                Cell::count(u.images),
                Cell::percent(u.percent()),
                Cell::count(a.images),
                Cell::percent(a.percent()),
            ]
        });
        let columns = ["confidence", "M_U before: images", "right", "M_A after: images", "right"];
        let about = "Of how many images a model is so sure, and how many of these it gets right, in percent.";
        Table::new("confidences", "By confidence", about, &columns, rows.collect())
    }

    /// Where no class is known: how often each model says each class.
    pub(super) fn said(&self) -> Table {
        let count = |said: fn(&Predicted) -> Said, class: usize| {
            Cell::count(self.images.iter().filter(|image| said(image).class == class).count())
        };
        let row = |(class, name): (usize, &String)| {
            vec![Cell::text(name), count(|image| image.unlearned, class), count(|image| image.recovered, class)]
        };
        let rows = if self.labelled() { Vec::new() } else { self.summary.classes.iter().enumerate().map(row).collect() };
        let about = "How many of the forget images a model takes for each class.";
        Table::new("said", "What the models say", about, &["class", "M_U before", "M_A after"], rows)
    }

    pub(super) fn predictions(&self) -> Table {
        let chosen = spread(self.images.len(), MOST_ROWS);
        let row = |image: &Predicted| {
            let truth = image.truth;
            let came = match truth {
                None => "",
                Some(truth) if image.unlearned.class == truth && image.recovered.class == truth => "was never gone",
                Some(truth) if image.unlearned.class == truth => "lost by the attack",
                Some(truth) if image.recovered.class == truth => "came back",
                Some(_) => "did not come back",
            };
            vec![
                Cell::text(&image.image),
                Cell::text(truth.map_or("", |class| self.class(class))),
                Cell::text(self.class(image.unlearned.class)),
                Cell::percent(Some(100.0 * image.unlearned.confidence)),
                Cell::text(self.class(image.recovered.class)),
                Cell::percent(Some(100.0 * image.recovered.confidence)),
                Cell::text(came),
            ]
        };
        let about = if chosen.len() < self.images.len() {
            format!("{} of {} images, evenly spread; all are in predictions.csv.", chosen.len(), self.images.len())
        } else {
            "Confidences are in percent.".to_string()
        };
        let columns = ["image", "true class", "M_U before", "sure", "M_A after", "sure", "its class"];
        let rows = chosen.iter().filter_map(|&image| self.images.get(image)).map(row).collect();
        Table::new("predictions", "Every forget image", &about, &columns, rows)
    }
}
