//! ResNets in their CIFAR form: a 3x3 stem without max-pooling (He et al. 2016, section 4.2; basic blocks, projection shortcuts).

use super::InputShape;
use super::builder::{Builder, Value};
use crate::error::{Error, Result};
use crate::onnx::proto::ModelProto;

/// From images `[C, H, W]` to features `[F]`: a stem of `widths[0]` channels, then for every width a stage of `blocks` basic
/// blocks; every stage but the first halves the map. F is the last width.
///
/// # Errors
/// Usage, when there are no widths, or one of them is 0 or too large.
pub fn features(builder: &mut Builder, images: &Value, widths: &[usize], blocks: usize) -> Result<Value> {
    let Some(stem) = widths.first() else { return Err(Error::usage("a ResNet needs at least one stage")) };
    let mut x = builder.conv("conv1", images, *stem, 3, 1)?;
    x = builder.batch_norm("bn1", &x)?;
    x = builder.relu("relu", &x);
    for (stage, width) in widths.iter().enumerate() {
        for block in 0..blocks {
            let stride = if stage > 0 && block == 0 { 2 } else { 1 };
            x = basic_block(builder, &format!("layer{}.{block}", stage + 1), &x, *width, stride)?;
        }
    }
    x = builder.global_average_pool("avgpool", &x)?;
    builder.flatten("flatten", &x)
}

/// The small ResNet of three blocks with another width than 16: the stages are `width`, 2 and 4 times `width` wide.
///
/// # Errors
/// As [`classifier`](super::classifier).
pub fn resnet8(input: InputShape, classes: usize, width: usize, seed: u64) -> Result<ModelProto> {
    let times = |factor: usize| {
        width.checked_mul(factor).ok_or_else(|| Error::usage(format!("a ResNet cannot be {width} channels wide")))
    };
    let widths = [width, times(2)?, times(4)?];
    let mut builder = Builder::new(input, seed)?;
    let images = builder.images();
    let features = features(&mut builder, &images, &widths, 1)?;
    let logits = builder.gemm("fc", &features, classes)?;
    builder.finish(&format!("resnet8-{width}"), &logits)
}

fn basic_block(builder: &mut Builder, name: &str, x: &Value, width: usize, stride: usize) -> Result<Value> {
    let mut residual = builder.conv(&format!("{name}.conv1"), x, width, 3, stride)?;
    residual = builder.batch_norm(&format!("{name}.bn1"), &residual)?;
    residual = builder.relu(&format!("{name}.relu1"), &residual);
    residual = builder.conv(&format!("{name}.conv2"), &residual, width, 3, 1)?;
    residual = builder.batch_norm(&format!("{name}.bn2"), &residual)?;
    let shortcut = if stride == 1 && x.channels() == width {
        x.clone()
    } else {
        let projected = builder.conv(&format!("{name}.downsample.0"), x, width, 1, stride)?;
        builder.batch_norm(&format!("{name}.downsample.1"), &projected)?
    };
    let sum = builder.add(&format!("{name}.add"), &residual, &shortcut)?;
    Ok(builder.relu(&format!("{name}.relu2"), &sum))
}
