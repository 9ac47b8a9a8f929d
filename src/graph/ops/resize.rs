//! Resizing by interpolation, one axis at a time.

use super::operands::{axes_in, elements, is_whole, on};
use super::{Call, Kernel, Node, Op, one};
use crate::error::{Error, Result};
use crate::tensor::{Kind, Tensor, to_f64s};

mod axis;

use axis::{Axis, Coordinates, Filter, Nearest};

/// The rows of this family.
pub const OPS: &[Op] = &[
    Op::new("Resize", 10, 2, |node| upsample(node, |call| to_f64s(call.input(1)?))).at_least(2),
    Op::new("Resize", 11, 4, resize),
    Op::new("Upsample", 1, 1, |node| {
        let scale = |name: &str| node.float(name)?.ok_or_else(|| Error::malformed(format!("attribute '{name}' is missing")));
        let scales = vec![1.0, 1.0, scale("height_scale")?, scale("width_scale")?];
        upsample(node, move |_| Ok(scales.clone()))
    }),
    Op::new("Upsample", 7, 1, |node| {
        let Some(scales) = node.floats("scales")? else { return Err(Error::malformed("attribute 'scales' is missing")) };
        upsample(node, move |_| Ok(scales.clone()))
    }),
    Op::new("Upsample", 9, 2, |node| upsample(node, |call| to_f64s(call.input(1)?))).at_least(2),
];

/// What the attributes say.
struct Resize {
    filter: Filter,
    coordinates: Coordinates,
    exclude_outside: bool,
    extrapolation: f64,
    axes: Option<Vec<i64>>,
    aspect: Aspect,
}

/// How `sizes` are understood.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Aspect {
    Stretch,
    NotLarger,
    NotSmaller,
}

/// Resize-10 and Upsample.
fn upsample(node: &Node<'_>, scales: impl Fn(&Call<'_>) -> Result<Vec<f64>> + Send + Sync + 'static) -> Result<Kernel> {
    let filter = match node.text_or("mode", "nearest")?.as_str() {
        "nearest" => Filter::Nearest(Nearest::Simple),
        "linear" | "bilinear" => Filter::Linear { antialias: false },
        other => return node.unsupported(format!("mode '{other}'")),
    };
    let resize = Resize {
        filter,
        coordinates: Coordinates::Asymmetric,
        exclude_outside: false,
        extrapolation: 0.0,
        axes: None,
        aspect: Aspect::Stretch,
    };
    one(move |call| resize.by_scales(call.input(0)?, &scales(call)?, &[]))
}

fn resize(node: &Node<'_>) -> Result<Kernel> {
    let antialias = node.opset >= 18 && node.flag("antialias")?;
    let nearest = match node.text_or("nearest_mode", "round_prefer_floor")?.as_str() {
        "round_prefer_floor" => Nearest::RoundPreferFloor,
        "round_prefer_ceil" => Nearest::RoundPreferCeil,
        "floor" => Nearest::Floor,
        "ceil" => Nearest::Ceil,
        other => return node.unsupported(format!("nearest_mode '{other}'")),
    };
    let a = node.float_or("cubic_coeff_a", -0.75)?;
    let filter = match node.text_or("mode", "nearest")?.as_str() {
        "nearest" if antialias => return node.unsupported("antialias and mode 'nearest'"),
        "nearest" => Filter::Nearest(nearest),
        "linear" => Filter::Linear { antialias },
        "cubic" => Filter::Cubic { a, antialias },
        other => return node.unsupported(format!("mode '{other}'")),
    };
    let coordinates = match node.text_or("coordinate_transformation_mode", "half_pixel")?.as_str() {
        "half_pixel" => Coordinates::HalfPixel,
        "half_pixel_symmetric" if node.opset >= 19 => Coordinates::HalfPixelSymmetric,
        "pytorch_half_pixel" => Coordinates::PytorchHalfPixel,
        "align_corners" => Coordinates::AlignCorners,
        "asymmetric" => Coordinates::Asymmetric,
        "tf_crop_and_resize" => Coordinates::CropAndResize,
        other => return node.unsupported(format!("coordinate_transformation_mode '{other}'")),
    };
    let aspect =
        match if node.opset >= 18 { node.text_or("keep_aspect_ratio_policy", "stretch")? } else { "stretch".into() }.as_str() {
            "stretch" => Aspect::Stretch,
            "not_larger" => Aspect::NotLarger,
            "not_smaller" => Aspect::NotSmaller,
            other => return node.unsupported(format!("keep_aspect_ratio_policy '{other}'")),
        };
    let resize = Resize {
        filter,
        coordinates,
        exclude_outside: node.flag("exclude_outside")?,
        extrapolation: node.float_or("extrapolation_value", 0.0)?,
        axes: if node.opset >= 18 { node.ints("axes")? } else { None },
        aspect,
    };
    one(move |call| {
        let x = call.input(0)?;
        let roi = match (resize.coordinates, call.optional(1)) {
            (Coordinates::CropAndResize, Some(roi)) => to_f64s(roi)?,
            (Coordinates::CropAndResize, None) => return Err(Error::malformed("tf_crop_and_resize without a region")),
            _ => Vec::new(),
        };
        // An empty list of scales stands for none, where both have to be named.
        match (call.optional(2).filter(|scales| scales.numel() > 0), call.optional_ints(3)?) {
            (Some(scales), None) => resize.by_scales(x, &to_f64s(scales)?, &roi),
            (Some(_), Some(sizes)) if !sizes.is_empty() => Err(Error::malformed("both scales and sizes are given")),
            (Some(scales), Some(_)) => resize.by_scales(x, &to_f64s(scales)?, &roi),
            (None, Some(sizes)) => resize.by_sizes(x, &sizes, &roi),
            (None, None) => Err(Error::malformed("neither scales nor sizes are given")),
        }
    })
}

impl Resize {
    fn axes(&self, x: &Tensor) -> Result<Vec<usize>> {
        let axes = match &self.axes {
            Some(axes) => axes_in(axes, x.dim())?,
            None => (0..).take(x.dim()).collect(),
        };
        axes.into_iter().map(|axis| usize::try_from(axis).map_err(Error::malformed)).collect()
    }

    fn by_scales(&self, x: &Tensor, scales: &[f64], roi: &[f64]) -> Result<Tensor> {
        let (axes, shape) = (self.axes(x)?, x.size());
        if scales.len() != axes.len() {
            return Err(Error::malformed(format!("{} scales for {} axes", scales.len(), axes.len())));
        }
        let mut planned = Vec::with_capacity(axes.len());
        for (place, (&axis, &scale)) in axes.iter().zip(scales).enumerate() {
            if !(scale > 0.0 && scale < 1e9) {
                return Err(Error::malformed(format!("scale {scale} is not a positive number")));
            }
            let region = region(roi, place, axes.len());
            // In single precision, where 10 times 0.7 is 7.
            #[expect(clippy::cast_precision_loss, clippy::cast_possible_truncation, reason = "sizes are small")]
            let output = match roi.is_empty() {
                true => (shape[axis] as f32 * scale as f32).floor() as i64,
                false => (shape[axis] as f64 * (region.1 - region.0) * scale).floor() as i64,
            };
            planned.push((axis, self.axis(shape[axis], output, scale, region)));
        }
        self.run(x, planned)
    }

    fn by_sizes(&self, x: &Tensor, sizes: &[i64], roi: &[f64]) -> Result<Tensor> {
        let (axes, shape) = (self.axes(x)?, x.size());
        if sizes.len() != axes.len() || axes.iter().any(|&axis| shape[axis] == 0) {
            return Err(Error::malformed(format!("sizes {sizes:?} for shape {shape:?}")));
        }
        #[expect(clippy::cast_precision_loss, reason = "sizes are small")]
        let scales: Vec<f64> = axes.iter().zip(sizes).map(|(&axis, &size)| size as f64 / shape[axis] as f64).collect();
        let common = match self.aspect {
            Aspect::Stretch => None,
            Aspect::NotLarger => scales.iter().copied().reduce(f64::min),
            Aspect::NotSmaller => scales.iter().copied().reduce(f64::max),
        };
        let mut planned = Vec::with_capacity(axes.len());
        for (place, &axis) in axes.iter().enumerate() {
            #[expect(clippy::cast_precision_loss, clippy::cast_possible_truncation, reason = "sizes are small")]
            let (output, scale) = match common {
                None => (sizes[place], scales[place]),
                Some(scale) => ((scale * shape[axis] as f64 + 0.5).floor() as i64, scale),
            };
            planned.push((axis, self.axis(shape[axis], output, scale, region(roi, place, axes.len()))));
        }
        self.run(x, planned)
    }

    fn axis(&self, input: i64, output: i64, scale: f64, region: (f64, f64)) -> Axis {
        let (filter, coordinates) = (self.filter, self.coordinates);
        Axis { input, output, scale, region, filter, coordinates, exclude_outside: self.exclude_outside }
    }

    fn run(&self, x: &Tensor, planned: Vec<(usize, Axis)>) -> Result<Tensor> {
        let mut shape = x.size();
        for (axis, plan) in &planned {
            shape[*axis] = plan.output;
        }
        elements(&shape)?;
        let kind = x.f_kind()?;
        if is_whole(kind) && !matches!(self.filter, Filter::Nearest(_)) {
            return Err(Error::unsupported("Resize that interpolates integers is not supported"));
        }
        let small = matches!(kind, Kind::Half | Kind::BFloat16);
        let mut y = if small { x.f_to_kind(Kind::Float)? } else { x.shallow_clone() };
        for (axis, plan) in planned {
            if plan.is_identity() {
                continue;
            }
            if plan.input == 0 {
                return Err(Error::malformed("an empty axis cannot be resized"));
            }
            let dim = i64::try_from(axis).map_err(Error::malformed)?;
            let places = plan.places();
            y = match self.filter {
                Filter::Nearest(nearest) => {
                    let index = Tensor::f_from_slice(&plan.nearest(&places, nearest))?;
                    y.f_index_select(dim, &on(&index, y.device())?)?
                }
                Filter::Linear { .. } | Filter::Cubic { .. } => {
                    let weights = Tensor::f_from_slice(&plan.weights(&places)?)?.f_reshape([plan.output, plan.input])?;
                    let weights = on(&weights.f_to_kind(y.f_kind()?)?, y.device())?;
                    y.f_transpose(dim, -1)?.f_matmul(&weights.f_tr()?)?.f_transpose(dim, -1)?
                }
            };
            if let Some(outside) = plan.outside(&places) {
                let mut ladder = vec![1; y.dim()];
                ladder[axis] = plan.output;
                let mask = on(&Tensor::f_from_slice(&outside)?.f_reshape(ladder)?, y.device())?;
                y = y.f_masked_fill(&mask, self.extrapolation)?;
            }
        }
        if small { Ok(y.f_to_kind(kind)?) } else { Ok(y) }
    }
}

/// Start and end of the region of interest along one of the named axes, in parts of the input; all of it if there is none.
fn region(roi: &[f64], place: usize, axes: usize) -> (f64, f64) {
    match (roi.get(place), roi.get(axes + place)) {
        (Some(&start), Some(&end)) => (start, end),
        _ => (0.0, 1.0),
    }
}
