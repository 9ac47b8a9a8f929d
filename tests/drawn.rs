//! What figures draw, measured against their own axes: lines, bars, boxes, polygons, cells and maps stand where the values say.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use cmira::report::figures::{self, Confusion, Course, Figure, Map, Point, Polygon};
use cmira::report::read::CourseLine;
use cmira::report::{ClassRecord, Record};
use roxmltree::{Document, Node};

/// What rounding to pixels may move, in pixels.
const PIXELS: f64 = 1.5;

fn number(node: &Node, name: &str) -> f64 {
    node.attribute(name).unwrap_or_else(|| panic!("no {name}: {node:?}")).parse().unwrap()
}

fn marks<'a>(drawing: &'a Document<'a>) -> impl Iterator<Item = Node<'a, 'a>> {
    drawing.descendants().filter(|node| node.attribute("class") == Some("mark"))
}

/// Corners of everything of that name that is drawn in a colour.
fn corners(drawing: &Document, name: &str, colour: &str) -> Vec<Vec<(f64, f64)>> {
    let of = |node: Node| -> Vec<(f64, f64)> {
        let pair = |pair: &str| pair.split_once(',').map(|(x, y)| (x.parse().unwrap(), y.parse().unwrap())).unwrap();
        node.attribute("points").unwrap().split_whitespace().map(pair).collect()
    };
    let coloured = |node: &Node| [node.attribute("stroke"), node.attribute("fill")].contains(&Some(colour));
    drawing.descendants().filter(|node| node.has_tag_name(name) && coloured(node)).map(of).collect()
}

/// Where a value stands on the axis whose labels lie in a part of the sheet: `x` from below, or `y` at the left.
fn axis(drawing: &Document, place: &str, part: std::ops::Range<f64>) -> impl Fn(f64) -> f64 + use<> {
    let labels: Vec<(f64, f64)> = drawing
        .descendants()
        .filter(|node| {
            node.has_tag_name("text") && node.attribute("text-anchor") == Some(if place == "y" { "end" } else { "middle" })
        })
        .filter_map(|node| Some((node.text()?.trim().parse::<f64>().ok()?, number(&node, place), number(&node, "y"))))
        .filter(|(_, _, y)| part.contains(y))
        .map(|(value, at, _)| (value, at))
        .collect();
    let by_value = |a: &&(f64, f64), b: &&(f64, f64)| a.0.total_cmp(&b.0);
    let (low, high) = (*labels.iter().min_by(by_value).unwrap(), *labels.iter().max_by(by_value).unwrap());
    assert!(high.0 > low.0, "{labels:?}");
    move |value| low.1 + (value - low.0) / (high.0 - low.0) * (high.1 - low.1)
}

fn near(a: (f64, f64), b: (f64, f64)) -> bool {
    (a.0 - b.0).abs() <= PIXELS && (a.1 - b.1).abs() <= PIXELS
}

fn class(class: &str, acc_u: f64, acc_a: f64) -> ClassRecord {
    ClassRecord { class: class.into(), images: 10, acc_u, acc_a, r_i: acc_a - acc_u }
}

fn record(method: &str, classes: Vec<ClassRecord>) -> Record {
    let mean = |of: fn(&ClassRecord) -> f64| classes.iter().map(of).sum::<f64>() / classes.len() as f64;
    let (acc_u, acc_a) = (mean(|class| class.acc_u), mean(|class| class.acc_a));
    let provenance = serde_json::json!({
        "seed": 0, "settings_sha256": "", "model_sha256": "", "forget_sha256": "", "probe_sha256": "", "adapter_sha256": "", "device": "cpu",
        "threads": 1, "precision": "fp32", "cmira": "", "libtorch": ""
    });
    serde_json::from_value(serde_json::json!({
        "dataset": "shapes", "backbone": "net", "method": method, "variant": "P+U+A", "n_forget": 10, "n_scored": 10, "n_probe": 10,
        "acc_u": acc_u, "acc_a_last": acc_a, "r_i": acc_a - acc_u, "agreement_rate": 1.0, "iterations": 1, "stop_reason": "iterations",
        "classes": classes, "provenance": provenance
    }))
    .unwrap()
}

fn records() -> [Record; 2] {
    let classes =
        |by: f64| vec![class("a", 10.0, 10.0 + by), class("b", 40.0, 90.0), class("c", 70.0, 65.0), class("d", 20.0, 45.0)];
    [record("FT", classes(12.0)), record("GA", classes(70.0))]
}

fn drawn(figure: Option<Figure>) -> String {
    figure.unwrap().svg
}

#[test]
fn courses_follow_their_axes() {
    let line = |iteration: usize, acc_a: f64, acc_u: f64| CourseLine {
        variant: "P+U+A".into(),
        iteration,
        acc_a: Some(acc_a),
        acc_u: Some(acc_u),
        agreement_rate: 0.5,
        agreement: 1,
        from_unlearned: 1,
        from_attack: 1,
        loss_a: None,
        loss_u: None,
    };
    let own = vec![line(0, 20.0, 5.0), line(1, 55.0, 10.0), line(2, 35.0, 60.0), line(3, 90.0, 95.0)];
    let svg = drawn(figures::course(&[Course { title: String::new(), own, control: Vec::new() }]).unwrap());
    let drawing = Document::parse(&svg).unwrap();
    let (x, y) = (axis(&drawing, "x", 300.0..400.0), axis(&drawing, "y", 0.0..400.0));
    for (series, colour) in [("Acc_A", "#DDAA33"), ("Acc_U", "#004488")] {
        let lines = corners(&drawing, "polyline", colour);
        let line = lines.iter().max_by_key(|line| line.len()).unwrap();
        let mut found = 0;
        for mark in marks(&drawing).filter(|mark| mark.attribute("data-series") == Some(series)) {
            let wanted = (x(number(&mark, "data-at")), y(number(&mark, "data-value")));
            assert!(near(wanted, (number(&mark, "cx"), number(&mark, "cy"))), "{series}: {mark:?}");
            assert!(line.iter().any(|corner| near(*corner, wanted)), "{series}: {wanted:?} is not on {line:?}");
            found += 1;
        }
        assert_eq!(found, 4, "{series}");
    }
}

#[test]
fn bars_and_boxes_follow_their_axes() {
    let svg = drawn(figures::improvement(&records(), &[]).unwrap());
    let drawing = Document::parse(&svg).unwrap();
    let y = axis(&drawing, "y", 0.0..1000.0);
    assert_eq!(marks(&drawing).count(), 2);
    for mark in marks(&drawing) {
        let value = number(&mark, "data-value");
        let bars = drawing.descendants().filter(|node| node.has_tag_name("rect") && node.attribute("class").is_none());
        let mut over = bars.filter(|bar| (number(bar, "x") - number(&mark, "x")).abs() <= PIXELS);
        let fits = |bar: Node| {
            let (top, bottom) = (number(&bar, "y"), number(&bar, "y") + number(&bar, "height"));
            (top - y(value)).abs() <= PIXELS && (bottom - y(0.0)).abs() <= PIXELS
        };
        assert!(over.any(fits), "no bar for {mark:?}");
    }

    let svg = drawn(figures::boxes(&records()).unwrap());
    let drawing = Document::parse(&svg).unwrap();
    // Gains of classes: 12, 50, -5 and 25, or 70 instead of 12.
    for (method, [low, median, high]) in [("FT", [7.75, 18.5, 31.25]), ("GA", [17.5, 37.5, 55.0])] {
        let mark = marks(&drawing).find(|mark| mark.attribute("data-at") == Some(method)).unwrap();
        assert_eq!(number(&mark, "data-value"), median);
        let middle = number(&mark, "y");
        let y = axis(&drawing, "y", middle - middle % 230.0..middle - middle % 230.0 + 230.0);
        let inside = |x: f64| x >= number(&mark, "x") - PIXELS && x <= number(&mark, "x") + number(&mark, "width") + PIXELS;
        let boxed =
            drawing.descendants().filter(|node| node.has_tag_name("rect") && node.attribute("class").is_none()).any(|node| {
                let (top, bottom) = (number(&node, "y"), number(&node, "y") + number(&node, "height"));
                inside(number(&node, "x")) && (top - y(high)).abs() <= PIXELS && (bottom - y(low)).abs() <= PIXELS
            });
        assert!(boxed, "{method}: no box from {low} to {high}");
        let thick = corners(&drawing, "polyline", "#004488");
        let lined = thick.iter().any(|line| line.iter().all(|(x, at)| inside(*x) && (at - y(median)).abs() <= PIXELS));
        assert!(lined, "{method}: no line at {median}: {thick:?}");
    }
}

#[test]
fn polygons_have_their_corners_at_their_values() {
    let classes = [class("a", 100.0, 60.0), class("b", 30.0, 80.0), class("c", 55.0, 20.0)];
    let svg = drawn(figures::polygons(&[Polygon { title: "net".into(), classes: &classes }]).unwrap());
    let drawing = Document::parse(&svg).unwrap();
    // The outermost of the rings that are drawn faintly is the rim, whose centre is the middle of a point at its foot.
    let rings = corners(&drawing, "polyline", "#C8C8C8");
    let spoke = |class: usize| {
        let spokes: Vec<_> = rings.iter().filter(|line| line.len() == 2).collect();
        (spokes[class][0], spokes[class][1])
    };
    let filled = corners(&drawing, "polygon", "#DDAA33").concat();
    for (place, class) in classes.iter().enumerate() {
        let (centre, rim) = spoke(place);
        let at = |percent: f64| {
            let share = percent / 100.0;
            (centre.0 + share * (rim.0 - centre.0), centre.1 + share * (rim.1 - centre.1))
        };
        for (series, value) in [("net, M_U", class.acc_u), ("net, M_A", class.acc_a)] {
            let of = |mark: &Node| {
                (mark.attribute("data-series"), mark.attribute("data-at")) == (Some(series), Some(class.class.as_str()))
            };
            let mark = marks(&drawing).find(of).unwrap();
            assert!(near((number(&mark, "cx"), number(&mark, "cy")), at(value)), "{series}, {}: {mark:?}", class.class);
        }
        assert!(filled.iter().any(|corner| near(*corner, at(class.acc_a))), "{}: {filled:?}", class.class);
        let dashes = corners(&drawing, "polyline", "#004488").concat();
        let distance = |corner: &(f64, f64)| (corner.0 - at(class.acc_u).0).hypot(corner.1 - at(class.acc_u).1);
        // A dash or a gap may end beside a corner.
        assert!(dashes.iter().any(|corner| distance(corner) < 7.0), "{}: {dashes:?}", class.class);
    }
}

#[test]
fn cells_say_the_share_that_they_stand_for() {
    let classes = ["a".to_string(), "b".to_string()];
    let pairs = [(0, 0), (0, 0), (0, 0), (0, 1), (1, 1), (1, 0), (1, 1)];
    let matrix = Confusion { title: "M_U".into(), pairs: pairs.to_vec(), classes: &classes };
    let svg = drawn(figures::confusion(&[matrix]).unwrap());
    let drawing = Document::parse(&svg).unwrap();
    assert_eq!(marks(&drawing).count(), 4);
    for (place, mark) in marks(&drawing).enumerate() {
        let middle = (number(&mark, "x") + number(&mark, "width") / 2.0, number(&mark, "y") + number(&mark, "height") / 2.0);
        let inside = |node: &Node| node.has_tag_name("text") && near((number(node, "x"), number(node, "y")), middle);
        let said = drawing.descendants().find(inside).unwrap().text().unwrap().trim().to_string();
        assert_eq!(said, format!("{:.0}", number(&mark, "data-value")), "cell {place}");
    }
    // Darker where the share is larger.
    let mut shades: Vec<(f64, u32)> = marks(&drawing)
        .map(|mark| {
            let under = |node: &Node| {
                let place = ["x", "y"].map(|name| number(&mark, name));
                node.has_tag_name("rect")
                    && node.attribute("class").is_none()
                    && near((number(node, "x"), number(node, "y")), place.into())
                    && node.attribute("fill").is_some_and(|fill| fill.starts_with('#'))
            };
            let fill = drawing.descendants().find(under).unwrap().attribute("fill").unwrap().to_string();
            (number(&mark, "data-value"), u32::from_str_radix(&fill[1..3], 16).unwrap())
        })
        .collect();
    shades.sort_by(|a, b| a.0.total_cmp(&b.0));
    assert!(shades.windows(2).all(|pair| pair[0].1 > pair[1].1), "{shades:?}");
}

#[test]
fn maps_keep_their_shape_and_classes_their_signs() {
    let places = [(0.0, 0.0), (10.0, 0.0), (0.0, 5.0), (10.0, 5.0), (3.0, 1.0)];
    let points: Vec<Point> = places
        .iter()
        .enumerate()
        .map(|(place, at)| Point { at: *at, class: Some(place % 2), forget: true, name: format!("{place}.png") })
        .collect();
    let map = Map { title: "M_U".into(), points, silhouettes: [None, None] };
    let svg = drawn(figures::map(&[map], &["a".to_string(), "b".to_string()], true).unwrap());
    let drawing = Document::parse(&svg).unwrap();
    let found: Vec<(f64, f64)> = marks(&drawing).map(|mark| (number(&mark, "cx"), number(&mark, "cy"))).collect();
    assert_eq!(found.len(), places.len());
    // One scale for both directions.
    let scale = (found[1].0 - found[0].0) / 10.0;
    assert!(scale > 10.0, "{found:?}");
    for (place, at) in places.iter().zip(&found) {
        let wanted = (found[0].0 + scale * place.0, found[0].1 + scale * place.1);
        assert!(near(*at, wanted), "{place:?}: {at:?}, not {wanted:?}");
    }
    // The first class is a blue disc, the second an orange square, as beside the names.
    for (place, at) in found.iter().enumerate() {
        let discs = drawing.descendants().filter(|node| {
            node.has_tag_name("circle")
                && node.attribute("class").is_none()
                && near((number(node, "cx"), number(node, "cy")), *at)
        });
        let blue = discs.filter(|disc| disc.attribute("fill") == Some("#0072B2")).count();
        let around = |corners: &Vec<(f64, f64)>| corners.iter().all(|corner| (corner.0 - at.0).hypot(corner.1 - at.1) < 6.0);
        let orange = corners(&drawing, "polygon", "#E69F00").iter().filter(|corners| around(corners)).count();
        assert_eq!((blue, orange), if place % 2 == 0 { (1, 0) } else { (0, 1) }, "point {place}");
    }
}

#[test]
fn more_images_make_a_larger_disc_of_confidence() {
    let images = |sure: f64, count: usize| std::iter::repeat_n((sure, true), count);
    let said: Vec<(f64, bool)> = images(0.95, 90).chain(images(0.35, 10)).collect();
    let svg = drawn(figures::confidence([("M_U", said), ("M_A", Vec::new())]).unwrap());
    let drawing = Document::parse(&svg).unwrap();
    let (x, y) = (axis(&drawing, "x", 300.0..400.0), axis(&drawing, "y", 0.0..400.0));
    let radius = |sure: f64| {
        let at = |node: &Node| {
            node.has_tag_name("circle")
                && node.attribute("class").is_none()
                && near((number(node, "cx"), number(node, "cy")), (x(sure), y(100.0)))
        };
        number(&drawing.descendants().find(at).unwrap_or_else(|| panic!("nothing at {sure}")), "r")
    };
    assert!(radius(0.95) > 1.5 * radius(0.35));
}
