//! What a file says about the images that it takes.

use crate::error::{Error, Result};
use crate::graph::ImportOptions;
use crate::graph::Layout;
use crate::graph::ir::{Ir, IrNode, Value};
use crate::onnx::proto::{ModelProto, ValueInfoProto, tensor_proto::DataType};
use crate::tensor::Kind;

/// What the file says about its image input.
pub(super) struct Input {
    pub kind: Kind,
    pub layout: Layout,
    /// `None` where the batch dimension is symbolic or absent.
    pub batch: Option<i64>,
    /// `[C, H, W]`, whatever the layout.
    pub image: [Option<i64>; 3],
    /// About the largest number of an image, as far as the file tells.
    pub largest: f64,
}

impl Input {
    pub fn of(ir: &Ir, model: &ModelProto, options: &ImportOptions) -> Result<Input> {
        let graph = model.graph.as_ref();
        let names: Vec<&str> = ir.inputs.iter().map(|&i| ir.values[i].name.as_str()).collect();
        if names.len() != 1 {
            let (count, names) = (names.len(), names.join(", "));
            return Err(Error::unsupported(format!("the graph has {count} inputs ({names}) where an image classifier has one")));
        }
        let name = names.first().copied();
        let info = graph.and_then(|g| g.input.iter().find(|i| Some(i.name.as_str()) == name));
        let kind = info.map_or(Ok(Kind::Float), input_kind)?;
        let dims = info.map_or(Ok(None), declared_dims)?;
        let layout = layout(dims.as_deref(), options)?;
        let given = |axis: usize| options.image.map(|image| image[axis]);
        let dims = dims.unwrap_or_default();
        let axes: [Option<usize>; 3] = match layout {
            Layout::Nchw => [Some(1), Some(2), Some(3)],
            Layout::Nhwc => [Some(3), Some(1), Some(2)],
            Layout::FlatNchw | Layout::FlatNhwc => [None; 3],
        };
        let declared = |axis: Option<usize>| axis.and_then(|axis| dims.get(axis).copied().flatten());
        let image = [0, 1, 2].map(|axis| declared(axes[axis]).or(given(axis)));
        if let (Layout::FlatNchw | Layout::FlatNhwc, [Some(c), Some(h), Some(w)], Some(Some(length))) =
            (layout, image, dims.get(1))
        {
            let numbers = c.checked_mul(h).and_then(|n| n.checked_mul(w));
            if numbers != Some(*length) {
                let reason = format!("the input takes rows of {length} numbers, which are no images of {c}x{h}x{w}");
                return Err(
                    Error::unsupported(reason).help("give input.channels, input.height and input.width in an adapter file")
                );
            }
        }
        Ok(Input { kind, layout, batch: dims.first().copied().flatten(), image, largest: 1.0 })
    }

    /// Puts the arrangement of images before the graph, which is given `[N, C, H, W]` from then on.
    pub fn arrange(&self, ir: &mut Ir) -> Result<()> {
        let Some(input) = ir.inputs.first_mut().filter(|_| self.layout != Layout::Nchw) else { return Ok(()) };
        let taken = std::mem::replace(input, ir.values.len());
        ir.values.push(Value { name: "images [N, C, H, W]".to_string(), constant: None });
        let (op, kernel) = self.layout.node()?;
        let label = format!("the images as {}", self.layout);
        let node = IrNode::made_up(usize::MAX, label, op, kernel, *input, taken);
        ir.nodes.insert(0, node);
        Ok(())
    }

    /// Refuses images that no classifier takes, before any is made to try the graph on.
    pub fn admit(&self, limit: u64) -> Result<()> {
        let sizes = self.batch.iter().chain(self.image.iter().flatten());
        let numbers = sizes.clone().try_fold(1_u64, |total, &size| total.checked_mul(u64::try_from(size).ok()?));
        if numbers.is_some_and(|numbers| numbers <= limit) {
            return Ok(());
        }
        let shape: Vec<String> = sizes.map(i64::to_string).collect();
        let error =
            Error::malformed(format!("a batch of images of {} numbers is refused: the limit is {limit}", shape.join("x")));
        Err(error.help("--limit image_numbers=... raises it"))
    }

    pub fn known_image(&self) -> Option<[i64; 3]> {
        match self.image {
            [Some(c), Some(h), Some(w)] => Some([c, h, w]),
            _ => None,
        }
    }
}

/// Whether a dimension can be that of channels: images are grey or in colour.
fn is_channels(dim: Option<i64>) -> bool {
    matches!(dim, Some(1 | 3))
}

/// The layout that was asked for, or the one that the declared dimensions tell.
fn layout(dims: Option<&[Option<i64>]>, options: &ImportOptions) -> Result<Layout> {
    let rank = match options.layout {
        None | Some(Layout::Nchw | Layout::Nhwc) => 4,
        Some(Layout::FlatNchw | Layout::FlatNhwc) => 2,
    };
    match (dims, options.layout) {
        (None, said) => Ok(said.unwrap_or_default()),
        (Some(dims), Some(said)) if dims.len() == rank => Ok(said),
        (Some(&[_, c, _, last]), None) if is_channels(last) && !is_channels(c) => Ok(Layout::Nhwc),
        (Some(&[_, _, _, _]), None) => Ok(Layout::Nchw),
        // A grey image is the same row in both orders.
        (Some(&[_, _]), None) if options.image.is_some_and(|[c, _, _]| c == 1) => Ok(Layout::FlatNchw),
        (Some(&[_, _]), None) => {
            let error = Error::unsupported("the input takes rows of numbers, and the file does not say how an image becomes one");
            Err(error.help("give input.layout (flat_nchw or flat_nhwc), channels, height and width in an adapter file"))
        }
        (Some(dims), Some(said)) => {
            Err(Error::unsupported(format!("the input has {} dimensions where the adapter says {said}", dims.len())))
        }
        (Some(dims), None) => {
            Err(Error::unsupported(format!("the input has {} dimensions where images have 4 [N, C, H, W]", dims.len())))
        }
    }
}

/// Dimensions that the input declares, `None` where it declares no shape at all. Open are symbolic ones and, as some exporters
/// mark what they do not know, -1 and a batch of 0.
fn declared_dims(info: &ValueInfoProto) -> Result<Option<Vec<Option<i64>>>> {
    let shape = info.type_.as_ref().filter(|t| t.has_tensor_type()).and_then(|t| t.tensor_type().shape.as_ref());
    let Some(shape) = shape else { return Ok(None) };
    let dims = shape.dim.iter().enumerate().map(|(axis, dim)| match (axis, dim.has_dim_value().then(|| dim.dim_value())) {
        (_, None | Some(-1)) | (0, Some(0)) => Ok(None),
        (_, Some(size)) if size <= 0 => {
            Err(Error::malformed(format!("the input '{}' declares a dimension of {size}", info.name)))
        }
        (_, size) => Ok(size),
    });
    dims.collect::<Result<_>>().map(Some)
}

fn input_kind(info: &ValueInfoProto) -> Result<Kind> {
    let Some(declared) = info.type_.as_ref() else {
        return Err(Error::malformed(format!("the input '{}' declares no type", info.name)));
    };
    if !declared.has_tensor_type() {
        return Err(Error::unsupported(format!("the input '{}' is no tensor", info.name)));
    }
    let code = declared.tensor_type().elem_type;
    [
        (DataType::FLOAT, Kind::Float),
        (DataType::DOUBLE, Kind::Double),
        (DataType::FLOAT16, Kind::Half),
        (DataType::BFLOAT16, Kind::BFloat16),
    ]
    .into_iter()
    .find(|(data_type, _)| *data_type as i32 == code)
    .map(|(_, kind)| kind)
    .ok_or_else(|| {
        Error::unsupported(format!("the input's element type {code} is not a float type, nor cast to one before anything else"))
    })
}
