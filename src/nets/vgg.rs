//! VGGs with batch normalisation in their CIFAR form (Simonyan and Zisserman 2015; one linear layer behind it).

use super::builder::{Builder, Value};
use crate::error::Result;

/// Configuration D: the channels of the convolutions between one max-pooling and the next.
pub const VGG16: [&[usize]; 5] = [&[64, 64], &[128, 128], &[256, 256, 256], &[512, 512, 512], &[512, 512, 512]];

/// A small one of five layers.
pub const SMALL: [&[usize]; 4] = [&[16], &[32], &[64], &[64]];

/// From images `[C, H, W]` of any size that survives the poolings to features `[F]`, F being the last number of channels. Layers are numbered as in `torchvision.models.vgg16_bn`.
///
/// The convolutions have no bias: the batch normalisation behind each would take it away again, so its gradient would be
/// zero but for rounding. What five poolings leave of a map is averaged; of 32 x 32 pixels that is one.
///
/// # Errors
/// Usage, when the images have too many channels.
pub fn features(builder: &mut Builder, images: &Value, stages: &[&[usize]]) -> Result<Value> {
    let mut x = images.clone();
    let mut layer = 0;
    for stage in stages {
        for channels in *stage {
            x = builder.conv(&format!("features.{layer}"), &x, *channels, 3, 1)?;
            x = builder.batch_norm(&format!("features.{}", layer + 1), &x)?;
            x = builder.relu(&format!("features.{}", layer + 2), &x);
            layer += 3;
        }
        x = builder.max_pool(&format!("features.{layer}"), &x)?;
        layer += 1;
    }
    x = builder.global_average_pool("avgpool", &x)?;
    builder.flatten("flatten", &x)
}
