//! What a file says about the images that it takes.

use crate::error::{Error, Result};
use crate::graph::import::ImportOptions;
use crate::graph::ir::Ir;
use crate::onnx::proto::{ModelProto, ValueInfoProto, tensor_proto::DataType};
use crate::tensor::Kind;

/// What the file says about its image input.
pub(super) struct Input {
    pub kind: Kind,
    /// `None` where the batch dimension is symbolic or absent.
    pub batch: Option<i64>,
    pub image: [Option<i64>; 3],
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
        let declared = info.map_or(Ok(None), declared_dims)?;
        if let Some(dims) = &declared
            && dims.len() != 4
        {
            return Err(Error::unsupported(format!("the input has {} dimensions where images have 4 [N, C, H, W]", dims.len())));
        }
        let dims = declared.unwrap_or_default();
        let given = |axis: usize| options.image.map(|image| image[axis]);
        let image = [0, 1, 2].map(|axis| dims.get(axis + 1).copied().flatten().or(given(axis)));
        Ok(Input { kind, batch: dims.first().copied().flatten(), image })
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
    .ok_or_else(|| Error::unsupported(format!("the input's element type {code} is not a float type")))
}
