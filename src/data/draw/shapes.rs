//! What each drawn class looks like: one signed-distance function a class, in the shape's own frame.
//!
//! A signed distance is negative inside the shape and positive outside; its size is the distance to the outline, which is
//! what anti-aliasing needs. Every shape fits into the square from -1 to 1.

/// A point in the shape's own frame.
pub(super) type Point = (f64, f64);

/// Three numbers in `0..1` that vary proportions (thickness, number of stripes...) within a class.
pub(super) type Variation = [f64; 3];

/// One class of the drawn data set.
pub(super) struct Shape {
    pub(super) name: &'static str,
    pub(super) distance: fn(Point, &Variation) -> f64,
}

/// All classes. The first ten are the default set; a class keeps its place for ever, since its images depend on its name only
/// but class numbers appear in files.
pub(super) const SHAPES: [Shape; 20] = [
    Shape { name: "disc", distance: disc },
    Shape { name: "ring", distance: ring },
    Shape { name: "square", distance: square },
    Shape { name: "triangle", distance: triangle },
    Shape { name: "cross", distance: cross },
    Shape { name: "star", distance: star },
    Shape { name: "stripes", distance: stripes },
    Shape { name: "checker", distance: checker },
    Shape { name: "spiral", distance: spiral },
    Shape { name: "crescent", distance: crescent },
    Shape { name: "heart", distance: heart },
    Shape { name: "arrow", distance: arrow },
    Shape { name: "half_disc", distance: half_disc },
    Shape { name: "dots", distance: dots },
    Shape { name: "ell", distance: ell },
    Shape { name: "zigzag", distance: zigzag },
    Shape { name: "bowtie", distance: bowtie },
    Shape { name: "target", distance: target },
    Shape { name: "frame", distance: frame },
    Shape { name: "drop", distance: drop },
];

fn length((x, y): Point) -> f64 {
    (x * x + y * y).sqrt()
}

fn mix(from: f64, to: f64, share: f64) -> f64 {
    from + (to - from) * share
}

fn rectangle((x, y): Point, half_width: f64, half_height: f64) -> f64 {
    let (dx, dy) = (x.abs() - half_width, y.abs() - half_height);
    length((dx.max(0.0), dy.max(0.0))) + dx.max(dy).min(0.0)
}

fn distance_to_segment((x, y): Point, (ax, ay): Point, (bx, by): Point) -> f64 {
    let (ex, ey) = (bx - ax, by - ay);
    let along = (((x - ax) * ex + (y - ay) * ey) / (ex * ex + ey * ey)).clamp(0.0, 1.0);
    length((x - ax - along * ex, y - ay - along * ey))
}

/// Distance to the outline, negative where a ray to the right crosses the outline an odd number of times.
fn polygon((x, y): Point, corners: &[Point]) -> f64 {
    let mut distance = f64::INFINITY;
    let mut inside = false;
    for (&a, &b) in corners.iter().zip(corners.iter().cycle().skip(1)) {
        distance = distance.min(distance_to_segment((x, y), a, b));
        let crosses = (a.1 > y) != (b.1 > y);
        if crosses && x < a.0 + (y - a.1) / (b.1 - a.1) * (b.0 - a.0) {
            inside = !inside;
        }
    }
    if inside { -distance } else { distance }
}

fn disc(p: Point, _: &Variation) -> f64 {
    length(p) - 0.85
}

fn ring(p: Point, v: &Variation) -> f64 {
    (length(p) - 0.7).abs() - mix(0.13, 0.24, v[0])
}

fn square(p: Point, _: &Variation) -> f64 {
    rectangle(p, 0.74, 0.74)
}

fn triangle(p: Point, v: &Variation) -> f64 {
    polygon(p, &[(0.0, -0.95), (0.9, 0.65), (mix(-0.95, -0.7, v[0]), 0.65)])
}

fn cross(p: Point, v: &Variation) -> f64 {
    let arm = mix(0.2, 0.32, v[0]);
    rectangle(p, 0.95, arm).min(rectangle(p, arm, 0.95))
}

fn star(p: Point, v: &Variation) -> f64 {
    // A tenth of a turn as (cosine, sine), so that no angle has to be computed.
    const TENTH: Point = (0.809_016_994_374_947_4, 0.587_785_252_292_473_1);
    let inner = mix(0.36, 0.46, v[0]);
    let mut corners = [(0.0, 0.0); 10];
    let mut direction = (0.0, -1.0);
    for (index, corner) in corners.iter_mut().enumerate() {
        let radius = if index % 2 == 0 { 1.0 } else { inner };
        *corner = (direction.0 * radius, direction.1 * radius);
        direction = (direction.0 * TENTH.0 - direction.1 * TENTH.1, direction.0 * TENTH.1 + direction.1 * TENTH.0);
    }
    polygon(p, &corners)
}

/// Distance of `x` to the nearest edge of a pattern with edges `width` apart, and whether the cell that holds it is an odd one.
fn cell(x: f64, width: f64) -> (f64, bool) {
    let position = x / width;
    let from_edge = (position - position.round()).abs() * width;
    (from_edge, position.floor().rem_euclid(2.0) >= 1.0)
}

fn stripes(p: Point, v: &Variation) -> f64 {
    let width = mix(0.25, 0.36, v[0]);
    let (edge, odd) = cell(p.0 + width * v[1], width);
    rectangle(p, 0.88, 0.88).max(if odd { edge } else { -edge })
}

fn checker(p: Point, v: &Variation) -> f64 {
    let width = mix(0.36, 0.5, v[0]);
    let (edge_x, odd_x) = cell(p.0 + width * v[1], width);
    let (edge_y, odd_y) = cell(p.1 + width * v[2], width);
    let edge = edge_x.min(edge_y);
    rectangle(p, 0.88, 0.88).max(if odd_x == odd_y { edge } else { -edge })
}

fn spiral(p: Point, v: &Variation) -> f64 {
    let pitch = mix(0.42, 0.52, v[0]);
    let radius = length(p);
    let turns = p.1.atan2(p.0) / std::f64::consts::TAU;
    let arm = radius / pitch - turns;
    (((arm - arm.round()).abs() * pitch) - 0.27 * pitch).max(radius - 0.98)
}

fn crescent(p: Point, v: &Variation) -> f64 {
    let bite = mix(0.4, 0.55, v[0]);
    (length(p) - 0.92).max(0.76 - length((p.0 - bite, p.1)))
}

fn heart((x, y): Point, _: &Variation) -> f64 {
    const HALF: f64 = 0.48;
    const DIAGONAL: f64 = std::f64::consts::FRAC_1_SQRT_2;
    let lowered = y - 0.12;
    let turned = ((x + lowered) * DIAGONAL, (lowered - x) * DIAGONAL);
    let lobe = length((x.abs() - HALF * DIAGONAL, lowered + HALF * DIAGONAL)) - HALF;
    rectangle(turned, HALF, HALF).min(lobe)
}

fn arrow(p: Point, v: &Variation) -> f64 {
    let shaft = mix(0.16, 0.26, v[0]);
    let neck = mix(0.0, 0.2, v[1]);
    polygon(p, &[(-0.95, -shaft), (neck, -shaft), (neck, -0.7), (0.98, 0.0), (neck, 0.7), (neck, shaft), (-0.95, shaft)])
}

fn half_disc((x, y): Point, _: &Variation) -> f64 {
    (length((x, y - 0.4)) - 0.92).max(y - 0.4)
}

fn dots((x, y): Point, v: &Variation) -> f64 {
    const SPACING: f64 = 0.66;
    let nearest = |value: f64| value - (value / SPACING).round().clamp(-1.0, 1.0) * SPACING;
    length((nearest(x), nearest(y))) - mix(0.17, 0.25, v[0])
}

fn ell(p: Point, v: &Variation) -> f64 {
    let width = mix(0.36, 0.5, v[0]);
    polygon(
        p,
        &[(-0.7, -0.95), (-0.7 + width, -0.95), (-0.7 + width, 0.9 - width), (0.75, 0.9 - width), (0.75, 0.9), (-0.7, 0.9)],
    )
}

fn zigzag(p: Point, v: &Variation) -> f64 {
    let height = mix(0.35, 0.6, v[0]);
    let corners = [(-0.9, height), (-0.45, -height), (0.0, height), (0.45, -height), (0.9, height)];
    let stroke = corners.iter().zip(corners.iter().skip(1));
    stroke.fold(f64::INFINITY, |nearest, (&a, &b)| nearest.min(distance_to_segment(p, a, b))) - 0.13
}

fn bowtie(p: Point, v: &Variation) -> f64 {
    let height = mix(0.55, 0.8, v[0]);
    let left = polygon(p, &[(-0.95, -height), (0.08, 0.0), (-0.95, height)]);
    left.min(polygon(p, &[(0.95, -height), (-0.08, 0.0), (0.95, height)]))
}

fn target(p: Point, v: &Variation) -> f64 {
    let radius = length(p);
    (radius - mix(0.22, 0.32, v[0])).min((radius - 0.77).abs() - 0.15)
}

fn frame(p: Point, v: &Variation) -> f64 {
    rectangle(p, 0.66, 0.66).abs() - mix(0.1, 0.18, v[0])
}

fn drop((x, y): Point, _: &Variation) -> f64 {
    let tail = polygon((x, y), &[(0.0, -0.98), (0.51, 0.13), (-0.51, 0.13)]);
    tail.min(length((x, y - 0.36)) - 0.56)
}
