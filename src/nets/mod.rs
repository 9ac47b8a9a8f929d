//! Reference backbones, built as ONNX graphs and run through the same importer as anybody's file.
//!
//! All take images `[N, C, H, W]` (input `images`, any batch size) and give `logits` `[N, K]`. Initializers have the names
//! and start values of the PyTorch models of the same name. Every initializer draws from its own stream of random numbers,
//! so two nets from one seed agree in all layers that they share, whatever stands behind them.

use std::fmt;
use std::str::FromStr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::onnx::proto::ModelProto;

pub mod builder;
pub mod head;
pub mod resnet;
pub mod vgg;

use builder::{Builder, Value};

/// The reference architectures.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Backbone {
    /// A small ResNet for two CPU cores: three blocks, 16, 32 and 64 wide (78,042 parameters for ten classes).
    Resnet8,
    /// A small VGG for two CPU cores: four convolutions, 16 to 64 wide, a pooling behind each (61,338 parameters for ten classes).
    Vgg5,
    /// ResNet18 in its CIFAR form (11,173,962 parameters for ten classes).
    Resnet18,
    /// VGG16 with batch normalisation in its CIFAR form (14,724,042 parameters for ten classes).
    Vgg16,
}

impl Backbone {
    /// Every reference architecture.
    pub const ALL: [Backbone; 4] = [Backbone::Resnet8, Backbone::Vgg5, Backbone::Resnet18, Backbone::Vgg16];

    /// What settings, options and tables call it.
    pub fn name(self) -> &'static str {
        match self {
            Backbone::Resnet8 => "resnet8",
            Backbone::Vgg5 => "vgg5",
            Backbone::Resnet18 => "resnet18",
            Backbone::Vgg16 => "vgg16",
        }
    }

    /// From images to the features `[F]` of each.
    fn features(self, builder: &mut Builder, images: &Value) -> Result<Value> {
        match self {
            Backbone::Resnet8 => resnet::features(builder, images, &[16, 32, 64], 1),
            Backbone::Resnet18 => resnet::features(builder, images, &[64, 128, 256, 512], 2),
            Backbone::Vgg5 => vgg::features(builder, images, &vgg::SMALL),
            Backbone::Vgg16 => vgg::features(builder, images, &vgg::VGG16),
        }
    }

    /// What PyTorch's model calls its last layer.
    fn last_layer(self) -> &'static str {
        match self {
            Backbone::Resnet8 | Backbone::Resnet18 => "fc",
            Backbone::Vgg5 | Backbone::Vgg16 => "classifier",
        }
    }
}

impl fmt::Display for Backbone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Backbone {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        Backbone::ALL.into_iter().find(|backbone| backbone.name() == text).ok_or_else(|| {
            let names = Backbone::ALL.map(Backbone::name);
            Error::usage(format!("unknown backbone '{text}'")).help(format!("one of {}", names.join(", ")))
        })
    }
}

/// The images that a net is made for; 28, 32 and 64 pixels a side are usual.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InputShape {
    /// Colour channels, 1 or more.
    pub channels: usize,
    /// Pixels from top to bottom, 1 or more.
    pub height: usize,
    /// Pixels from left to right, 1 or more.
    pub width: usize,
}

/// A freshly initialised classifier: the backbone and one linear layer.
///
/// # Errors
/// Usage, when there are no classes, the images have no pixels, or the graph would be too large for an ONNX file.
pub fn classifier(backbone: Backbone, input: InputShape, classes: usize, seed: u64) -> Result<ModelProto> {
    let mut builder = Builder::new(input, seed)?;
    let images = builder.images();
    let features = backbone.features(&mut builder, &images)?;
    let logits = builder.gemm(backbone.last_layer(), &features, classes)?;
    builder.finish(&backbone.to_string(), &logits)
}

/// A freshly initialised attack model: the backbone and the two-layer head of [`head::mlp`], `hidden` wide, whose outputs
/// are multiplied by the constant `scale`.
///
/// # Errors
/// As [`classifier`]; also Usage, when `scale` is not a finite number above zero.
pub fn with_mlp_head(
    backbone: Backbone,
    input: InputShape,
    classes: usize,
    hidden: usize,
    scale: f64,
    seed: u64,
) -> Result<ModelProto> {
    let mut builder = Builder::new(input, seed)?;
    let images = builder.images();
    let features = backbone.features(&mut builder, &images)?;
    let logits = head::mlp(&mut builder, &features, hidden, classes, scale)?;
    builder.finish(&format!("{backbone}-mlp"), &logits)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use std::collections::HashSet;

    use super::*;
    use crate::error::ErrorKind;
    use crate::onnx::proto::TensorProto;

    const CIFAR: InputShape = InputShape { channels: 3, height: 32, width: 32 };

    fn initializers(proto: &ModelProto) -> &[TensorProto] {
        &proto.graph.as_ref().unwrap().initializer
    }

    fn floats(proto: &ModelProto, name: &str) -> Vec<f32> {
        let tensor = initializers(proto).iter().find(|tensor| tensor.name == name).unwrap();
        tensor.raw_data.chunks_exact(4).map(|bytes| f32::from_le_bytes(bytes.try_into().unwrap())).collect()
    }

    /// Parameters as PyTorch counts them: running statistics and constants are none.
    fn parameters(proto: &ModelProto) -> i64 {
        let trained = |name: &str| !name.contains("running_") && name != head::SCALE;
        initializers(proto).iter().filter(|tensor| trained(&tensor.name)).map(|tensor| tensor.dims.iter().product::<i64>()).sum()
    }

    #[test]
    fn parameter_counts_are_the_published_ones() {
        // What PyTorch counts in torchvision's resnet18 and vgg16_bn, changed into the CIFAR forms (stem and pooling of the one,
        // biases and classifier of the other).
        let count = |backbone| parameters(&classifier(backbone, CIFAR, 10, 0).unwrap());
        assert_eq!(count(Backbone::Resnet18), 11_173_962);
        assert_eq!(count(Backbone::Vgg16), 14_724_042);
        // 3*3*(3*16 + 16*32 + 32*64 + 64*64) filters, 2 (16 + 32 + 64 + 64) of normalisation, 64*10 + 10.
        assert_eq!(count(Backbone::Vgg5), 61_338);
    }

    #[test]
    fn start_values_follow_pytorchs_distributions() {
        let proto = classifier(Backbone::Resnet18, CIFAR, 10, 7).unwrap();
        let moments = |values: &[f32]| {
            let n = values.len() as f64;
            let mean = values.iter().map(|v| f64::from(*v)).sum::<f64>() / n;
            (mean, (values.iter().map(|v| (f64::from(*v) - mean).powi(2)).sum::<f64>() / n).sqrt())
        };
        // kaiming_normal_(mode="fan_out", nonlinearity="relu"): std = sqrt(2 / (512 * 9)), over 2.4 million draws.
        let (mean, std) = moments(&floats(&proto, "layer4.1.conv2.weight"));
        let expected = (2.0f64 / (512.0 * 9.0)).sqrt();
        assert!(mean.abs() < 1e-4 && (std / expected - 1.0).abs() < 0.01, "mean {mean}, std {std}");
        // nn.Linear: uniform between -1 / sqrt(512) and 1 / sqrt(512), whose standard deviation is bound / sqrt(3).
        let bound = 1.0 / 512.0f64.sqrt();
        for name in ["fc.weight", "fc.bias"] {
            assert!(floats(&proto, name).iter().all(|value| f64::from(value.abs()) <= bound));
        }
        let (_, std) = moments(&floats(&proto, "fc.weight"));
        assert!((std / (bound / 3.0f64.sqrt()) - 1.0).abs() < 0.05, "std {std}");
        for (name, value) in [("weight", 1.0), ("bias", 0.0), ("running_mean", 0.0), ("running_var", 1.0)] {
            assert!(floats(&proto, &format!("layer2.0.downsample.1.{name}")).iter().all(|v| *v == value));
        }
    }

    #[test]
    fn one_seed_gives_one_net_and_shared_layers() {
        let make = |seed| classifier(Backbone::Resnet8, CIFAR, 10, seed).unwrap();
        assert_eq!(make(1), make(1));
        assert_ne!(floats(&make(1), "conv1.weight"), floats(&make(2), "conv1.weight"));
        let attack = with_mlp_head(Backbone::Resnet8, CIFAR, 10, 32, 10.0, 1).unwrap();
        assert_eq!(floats(&attack, "layer3.0.conv2.weight"), floats(&make(1), "layer3.0.conv2.weight"));
        assert_eq!(floats(&attack, head::SCALE), [10.0]);
    }

    #[test]
    fn names_are_unique_and_all_sizes_build() {
        for backbone in Backbone::ALL {
            for side in [28, 64] {
                let input = InputShape { channels: 1, height: side, width: side };
                let proto = with_mlp_head(backbone, input, 7, 16, 1.0, 0).unwrap();
                let graph = proto.graph.as_ref().unwrap();
                let mut seen = HashSet::new();
                assert!(graph.node.iter().all(|node| seen.insert(&node.name)));
                assert!(graph.node.iter().flat_map(|node| &node.output).all(|output| seen.insert(output)));
                assert!(graph.initializer.iter().all(|tensor| seen.insert(&tensor.name)));
                let pools = graph.node.iter().filter(|node| node.op_type == "MaxPool").count();
                let expected = match backbone {
                    Backbone::Vgg16 => 5,
                    Backbone::Vgg5 => 4,
                    _ => 0,
                };
                assert_eq!(pools, expected);
            }
        }
    }

    #[test]
    fn names_round_trip_and_wrong_ones_are_listed() {
        for backbone in Backbone::ALL {
            assert_eq!(backbone.to_string().parse::<Backbone>().unwrap(), backbone);
        }
        let error = "alexnet".parse::<Backbone>().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Usage);
        assert!(error.to_string().contains("resnet8, vgg5, resnet18, vgg16"), "{error}");
    }

    #[test]
    fn impossible_requests_are_usage_errors() {
        let usage = |result: Result<ModelProto>| assert_eq!(result.unwrap_err().kind(), ErrorKind::Usage);
        usage(classifier(Backbone::Resnet8, CIFAR, 0, 0));
        usage(classifier(Backbone::Resnet8, InputShape { height: 0, ..CIFAR }, 10, 0));
        usage(classifier(Backbone::Resnet8, InputShape { channels: usize::MAX, ..CIFAR }, 10, 0));
        usage(classifier(Backbone::Resnet8, CIFAR, usize::MAX / 8, 0));
        usage(with_mlp_head(Backbone::Resnet8, CIFAR, 10, 0, 1.0, 0));
        for scale in [0.0, -1.0, f64::NAN, f64::INFINITY] {
            usage(with_mlp_head(Backbone::Resnet8, CIFAR, 10, 16, scale, 0));
        }
    }
}
