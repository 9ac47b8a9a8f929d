//! [`Builder`]: writes an ONNX graph layer by layer (opset 17, IR 8).

use rand::Rng;
use rand::distr::Distribution;
use rand_distr::{Normal, Uniform};

use super::InputShape;
use crate::error::{Error, Result};
use crate::onnx::proto::attribute_proto::AttributeType;
use crate::onnx::proto::tensor_proto::DataType;
use crate::onnx::proto::tensor_shape_proto::{Dimension, dimension};
use crate::onnx::proto::{
    AttributeProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, TensorProto, TensorShapeProto, TypeProto,
    ValueInfoProto, type_proto,
};
use crate::tensor::rng;

const OPSET: i64 = 17;
const IR_VERSION: i64 = 8;
const INPUT: &str = "images";
const OUTPUT: &str = "logits";
/// Protobuf refuses messages of 2 GiB; graph and names need little of the rest.
const MAX_WEIGHT_BYTES: usize = 2_000_000_000;

/// A tensor inside the graph: its name and its shape for one image, `[C, H, W]` or `[F]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Value {
    name: String,
    shape: Vec<usize>,
}

impl Value {
    /// The shape for one image, without the batch dimension.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// The number of channels of a map or of numbers of a vector.
    pub fn channels(&self) -> usize {
        self.shape.first().copied().unwrap_or(0)
    }

    fn map(&self, layer: &str) -> Result<[usize; 3]> {
        <[usize; 3]>::try_from(self.shape.as_slice())
            .map_err(|_| Error::usage(format!("layer '{layer}' takes maps [C, H, W], not {:?}", self.shape)))
    }

    fn vector(&self, layer: &str) -> Result<usize> {
        match self.shape.as_slice() {
            [width] => Ok(*width),
            other => Err(Error::usage(format!("layer '{layer}' takes vectors [F], not {other:?}"))),
        }
    }
}

/// An ONNX graph under construction. Each method adds one node, which has the layer's name; weights are called
/// `<layer>.weight` and so on, as in PyTorch, and are initialised as PyTorch's reference models are.
#[derive(Debug)]
pub struct Builder {
    graph: GraphProto,
    input: InputShape,
    seed: u64,
    weight_bytes: usize,
}

impl Builder {
    /// A graph with the input `images` `[N, C, H, W]` and no layers.
    ///
    /// # Errors
    /// Usage, when one of the input's sizes is 0.
    pub fn new(input: InputShape, seed: u64) -> Result<Self> {
        if input.channels == 0 || input.height == 0 || input.width == 0 {
            return Err(Error::usage(format!(
                "images of {} x {} x {} have no pixels",
                input.channels, input.height, input.width
            )));
        }
        Ok(Builder { graph: GraphProto::new(), input, seed, weight_bytes: 0 })
    }

    /// The graph's input.
    pub fn images(&self) -> Value {
        Value { name: INPUT.to_string(), shape: vec![self.input.channels, self.input.height, self.input.width] }
    }

    /// A square convolution of odd `kernel` without bias, padded by `kernel / 2`. Weights `[channels, C, kernel, kernel]` are
    /// normal with standard deviation `sqrt(2 / fan_out)` (He et al. 2015, as torchvision initialises ResNet and VGG).
    ///
    /// # Errors
    /// Usage, when `x` is no map, or a size is 0 or too large.
    pub fn conv(&mut self, layer: &str, x: &Value, channels: usize, kernel: usize, stride: usize) -> Result<Value> {
        let [inputs, height, width] = x.map(layer)?;
        if kernel.is_multiple_of(2) || stride == 0 {
            return Err(Error::usage(format!("layer '{layer}': kernel {kernel} is even or stride {stride} is 0")));
        }
        let shape = [channels, inputs, kernel, kernel];
        let fan_out = elements(layer, &[channels, kernel, kernel])?;
        let normal = Normal::new(0.0, (2.0 / fan_out as f64).sqrt()).map_err(Error::unexpected)?;
        let weight = self.drawn(&format!("{layer}.weight"), &shape, normal)?;
        let attributes =
            vec![ints("kernel_shape", &[kernel; 2])?, ints("pads", &[kernel / 2; 4])?, ints("strides", &[stride; 2])?];
        // An odd kernel with that padding keeps a side's length at stride 1.
        let shape = vec![channels, height.div_ceil(stride), width.div_ceil(stride)];
        Ok(self.node("Conv", layer, vec![x.name.clone(), weight], attributes, shape))
    }

    /// Batch normalisation with PyTorch's settings: epsilon 1e-5, and running statistics that move by a tenth.
    ///
    /// # Errors
    /// Usage, when `x` is no map.
    pub fn batch_norm(&mut self, layer: &str, x: &Value) -> Result<Value> {
        let [channels, ..] = x.map(layer)?;
        let mut inputs = vec![x.name.clone()];
        for (name, value) in [("weight", 1.0), ("bias", 0.0), ("running_mean", 0.0), ("running_var", 1.0)] {
            inputs.push(self.initializer(&format!("{layer}.{name}"), &[channels], std::iter::repeat(value))?);
        }
        let attributes = vec![float("epsilon", 1e-5), float("momentum", 0.9)];
        Ok(self.node("BatchNormalization", layer, inputs, attributes, x.shape.clone()))
    }

    /// The rectifier.
    pub fn relu(&mut self, layer: &str, x: &Value) -> Value {
        self.node("Relu", layer, vec![x.name.clone()], vec![], x.shape.clone())
    }

    /// The sum of two maps or vectors of one shape.
    ///
    /// # Errors
    /// Usage, when shapes differ.
    pub fn add(&mut self, layer: &str, x: &Value, y: &Value) -> Result<Value> {
        if x.shape != y.shape {
            return Err(Error::usage(format!("layer '{layer}' adds {:?} and {:?}", x.shape, y.shape)));
        }
        Ok(self.node("Add", layer, vec![x.name.clone(), y.name.clone()], vec![], x.shape.clone()))
    }

    /// Halves a map by the largest of every 2 x 2 pixels. A side of odd length keeps what is left over, so that a map never
    /// vanishes.
    ///
    /// # Errors
    /// Usage, when `x` is no map.
    pub fn max_pool(&mut self, layer: &str, x: &Value) -> Result<Value> {
        let [channels, height, width] = x.map(layer)?;
        let mut attributes = vec![ints("kernel_shape", &[2; 2])?, ints("strides", &[2; 2])?];
        if height % 2 == 1 || width % 2 == 1 {
            attributes.push(int("ceil_mode", 1));
        }
        let shape = vec![channels, height.div_ceil(2), width.div_ceil(2)];
        Ok(self.node("MaxPool", layer, vec![x.name.clone()], attributes, shape))
    }

    /// The average over all pixels, `[C, 1, 1]`.
    ///
    /// # Errors
    /// Usage, when `x` is no map.
    pub fn global_average_pool(&mut self, layer: &str, x: &Value) -> Result<Value> {
        let [channels, ..] = x.map(layer)?;
        Ok(self.node("GlobalAveragePool", layer, vec![x.name.clone()], vec![], vec![channels, 1, 1]))
    }

    /// Everything of one image in a row, `[C * H * W]`.
    ///
    /// # Errors
    /// Usage, when that number overflows.
    pub fn flatten(&mut self, layer: &str, x: &Value) -> Result<Value> {
        let width = elements(layer, &x.shape)?;
        Ok(self.node("Flatten", layer, vec![x.name.clone()], vec![int("axis", 1)], vec![width]))
    }

    /// A linear layer with bias from `[F]` to `[outputs]`. Weights `[outputs, F]` and bias are uniform between
    /// `-1 / sqrt(F)` and `1 / sqrt(F)`, as in `torch.nn.Linear`.
    ///
    /// # Errors
    /// Usage, when `x` is no vector, or a size is 0 or too large.
    pub fn gemm(&mut self, layer: &str, x: &Value, outputs: usize) -> Result<Value> {
        let width = x.vector(layer)?;
        let bound = 1.0 / (width.max(1) as f64).sqrt();
        let uniform = Uniform::new_inclusive(-bound, bound).map_err(Error::unexpected)?;
        let weight = self.drawn(&format!("{layer}.weight"), &[outputs, width], uniform)?;
        let bias = self.drawn(&format!("{layer}.bias"), &[outputs], uniform)?;
        Ok(self.node("Gemm", layer, vec![x.name.clone(), weight, bias], vec![int("transB", 1)], vec![outputs]))
    }

    /// Multiplies by a constant, which is stored as the scalar initializer `constant`.
    ///
    /// # Errors
    /// Usage, when `factor` is not a finite number above zero.
    pub fn scale(&mut self, layer: &str, x: &Value, constant: &str, factor: f64) -> Result<Value> {
        let stored = factor as f32;
        if !(stored.is_finite() && stored > 0.0) {
            return Err(Error::usage(format!("layer '{layer}': {factor} is not a finite number above zero")));
        }
        let constant = self.initializer(constant, &[], std::iter::once(stored))?;
        Ok(self.node("Mul", layer, vec![x.name.clone(), constant], vec![], x.shape.clone()))
    }

    /// The finished model: the output `logits` `[N, K]` is the vector `logits`.
    ///
    /// # Errors
    /// Usage, when `logits` is no vector.
    pub fn finish(mut self, name: &str, logits: &Value) -> Result<ModelProto> {
        let classes = logits.vector(OUTPUT)?;
        for node in &mut self.graph.node {
            for used in node.input.iter_mut().chain(&mut node.output).filter(|used| **used == logits.name) {
                *used = OUTPUT.to_string();
            }
        }
        let InputShape { channels, height, width } = self.input;
        self.graph.name = name.to_string();
        self.graph.input.push(value_info(INPUT, &[channels, height, width])?);
        self.graph.output.push(value_info(OUTPUT, &[classes])?);
        let opset = OperatorSetIdProto { version: OPSET, ..Default::default() };
        Ok(ModelProto {
            ir_version: IR_VERSION,
            opset_import: vec![opset],
            producer_name: env!("CARGO_PKG_NAME").to_string(),
            producer_version: env!("CARGO_PKG_VERSION").to_string(),
            graph: Some(self.graph).into(),
            ..Default::default()
        })
    }

    /// An initializer whose numbers come from a stream of their own, so that no layer shifts another's.
    fn drawn(&mut self, name: &str, shape: &[usize], numbers: impl Distribution<f64>) -> Result<String> {
        let stream = rng(self.seed, &format!("initialise {name}"), 0);
        self.initializer(name, shape, stream.sample_iter(numbers).map(|value| value as f32))
    }

    fn initializer(&mut self, name: &str, shape: &[usize], values: impl Iterator<Item = f32>) -> Result<String> {
        let count = elements(name, shape)?;
        let bytes = count.checked_mul(4).and_then(|bytes| bytes.checked_add(self.weight_bytes));
        match bytes {
            Some(bytes) if bytes <= MAX_WEIGHT_BYTES => self.weight_bytes = bytes,
            _ => return Err(Error::usage(format!("with '{name}' {shape:?} the weights exceed what an ONNX file can hold"))),
        }
        self.graph.initializer.push(TensorProto {
            name: name.to_string(),
            dims: shape.iter().map(|size| signed(*size)).collect::<Result<_>>()?,
            data_type: DataType::FLOAT as i32,
            raw_data: values.take(count).flat_map(f32::to_le_bytes).collect(),
            ..Default::default()
        });
        Ok(name.to_string())
    }

    fn node(
        &mut self,
        operator: &str,
        layer: &str,
        inputs: Vec<String>,
        attributes: Vec<AttributeProto>,
        shape: Vec<usize>,
    ) -> Value {
        let output = format!("{layer}.output");
        self.graph.node.push(NodeProto {
            name: layer.to_string(),
            op_type: operator.to_string(),
            input: inputs,
            output: vec![output.clone()],
            attribute: attributes,
            ..Default::default()
        });
        Value { name: output, shape }
    }
}

/// How many numbers a shape holds; a scalar's is one.
fn elements(what: &str, shape: &[usize]) -> Result<usize> {
    let product = shape.iter().try_fold(1usize, |product, size| product.checked_mul(*size));
    match product {
        Some(count) if count > 0 => Ok(count),
        _ => Err(Error::usage(format!("'{what}' cannot have the shape {shape:?}"))),
    }
}

fn signed(size: usize) -> Result<i64> {
    i64::try_from(size).map_err(|_| Error::usage(format!("a size of {size} is too large")))
}

fn int(name: &str, value: i64) -> AttributeProto {
    AttributeProto { name: name.to_string(), type_: AttributeType::INT.into(), i: value, ..Default::default() }
}

fn float(name: &str, value: f32) -> AttributeProto {
    AttributeProto { name: name.to_string(), type_: AttributeType::FLOAT.into(), f: value, ..Default::default() }
}

fn ints(name: &str, values: &[usize]) -> Result<AttributeProto> {
    let ints = values.iter().map(|value| signed(*value)).collect::<Result<_>>()?;
    Ok(AttributeProto { name: name.to_string(), type_: AttributeType::INTS.into(), ints, ..Default::default() })
}

/// A float tensor whose first dimension is the batch, `N`.
fn value_info(name: &str, shape: &[usize]) -> Result<ValueInfoProto> {
    let dimension = |value| Dimension { value: Some(value), ..Default::default() };
    let mut dim = vec![dimension(dimension::Value::DimParam("N".to_string()))];
    for size in shape {
        dim.push(dimension(dimension::Value::DimValue(signed(*size)?)));
    }
    let tensor = type_proto::Tensor {
        elem_type: DataType::FLOAT as i32,
        shape: Some(TensorShapeProto { dim, ..Default::default() }).into(),
        ..Default::default()
    };
    let type_ = TypeProto { value: Some(type_proto::Value::TensorType(tensor)), ..Default::default() };
    Ok(ValueInfoProto { name: name.to_string(), type_: Some(type_).into(), ..Default::default() })
}
