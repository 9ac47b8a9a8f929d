//! The order in which a file takes the numbers of an image. Everything else in this crate holds batches as `[N, C, H, W]`.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::graph::ops::{Kernel, Node, Op, one};
use crate::tensor::Tensor;

/// The order of an image batch's dimensions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Layout {
    /// `[N, C, H, W]`: batch, channels, height, width.
    #[default]
    Nchw,
    /// `[N, H, W, C]`, as TensorFlow, Keras and Flax have it.
    Nhwc,
    /// `[N, C*H*W]`: one row an image, channel after channel.
    FlatNchw,
    /// `[N, H*W*C]`: one row an image, pixel after pixel.
    FlatNhwc,
}

impl fmt::Display for Layout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Layout::Nchw => "[N, C, H, W]",
            Layout::Nhwc => "[N, H, W, C]",
            Layout::FlatNchw => "[N, C*H*W]",
            Layout::FlatNhwc => "[N, H*W*C]",
        })
    }
}

impl Layout {
    /// Images `[N, C, H, W]` as the file takes them. Nothing is copied where a view will do.
    ///
    /// # Errors
    /// Unexpected, when the images do not have four dimensions.
    pub fn arrange(self, images: &Tensor) -> Result<Tensor> {
        Ok(match self {
            Layout::Nchw => images.shallow_clone(),
            Layout::Nhwc => images.f_permute([0, 2, 3, 1])?,
            Layout::FlatNchw => images.f_flatten(1, -1)?,
            Layout::FlatNhwc => images.f_permute([0, 2, 3, 1])?.f_flatten(1, -1)?,
        })
    }

    /// The row and kernel of a node that arranges images; not an operator of ONNX.
    pub(crate) fn node(self) -> Result<(&'static Op, Kernel)> {
        fn unused(_: &Node<'_>) -> Result<Kernel> {
            Err(Error::unexpected("the arrangement of images is no operator"))
        }
        const ARRANGE: Op = Op::new("(layout)", 1, 1, unused);
        let row: &'static Op = &ARRANGE;
        Ok((row, one(move |call| self.arrange(call.input(0)?))?))
    }
}
