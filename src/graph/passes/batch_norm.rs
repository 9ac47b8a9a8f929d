//! Puts batch normalisation back where an exporter folded it away.
//!
//! In evaluation, `BN(conv(x))` is one convolution with other weights and a bias, or a product and a sum per channel, and many
//! exporters write that. Training it without normalisation is another problem than its authors had. Here a normalisation that
//! changes nothing is put behind such a place: its running statistics are measured on given images, its scale and shift undo it.
//! With `x` what is normalised, of mean mu and variance var over images and positions, and `m x + a` what the file makes of it:
//!
//! ```text
//! BN(x) = gamma (x - mu) / sqrt(var + eps) + beta,   gamma = m sqrt(var + eps),   beta = m mu + a
//! ```
//!
//! The length of a filter means nothing behind a normalisation but for the size of its steps, and after folding it holds what had been
//! gamma. Filters of `I` input and `O` output channels get the length sqrt(2 I / O), with which He et al. 2015 (fan out) initialise
//! them; training seldom takes it far from there.

mod rewrite;
mod sites;
mod statistics;

use std::collections::HashSet;

use crate::error::{Error, Result};
use crate::graph::Model;
use crate::onnx::proto::ModelProto;
use crate::tensor::{Tensor, no_grad};

use self::sites::Site;

/// What is known about folded normalisation in a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Finding {
    /// Nothing looks folded.
    None,
    /// So many places could be folded normalisation, and nothing says that they were.
    Possible(usize),
    /// So many places look like folded normalisation: affine maps per channel, or a residual network of convolutions with biases.
    Likely(usize),
}

/// Looks at a graph.
pub(crate) fn find(model: &ModelProto) -> Finding {
    let sites = sites::find(model);
    match sites.len() {
        0 => Finding::None,
        _ if sites::is_normalised(model) => Finding::None,
        count if count >= 3 && sites::looks_folded(model, &sites) => Finding::Likely(count),
        count => Finding::Possible(count),
    }
}

/// Whether no normalisation is seen in a graph and the filters of its convolutions are not stored as such, so that none can be looked
/// for.
pub(crate) fn is_hidden(model: &ModelProto) -> bool {
    !sites::is_normalised(model) && sites::computed_filters(model) >= 3
}

/// The model with normalisation behind every place that can have had one, the number of these, and that of places that were left out
/// because their maps are single points; its outputs in evaluation stay what they are. `batches` are images `[N, C, H, W]` as the model takes them.
///
/// # Errors
/// Unsupported, when there is no such place or the opset is older than 7; what the model raises on the images.
pub(crate) fn reinsert(model: &Model, batches: &mut dyn Iterator<Item = Result<Tensor>>) -> Result<(Model, usize, usize)> {
    let _guard = no_grad();
    let mut proto = model.to_onnx()?;
    let opset = proto.opset_import.iter().filter(|o| matches!(o.domain.as_str(), "" | "ai.onnx")).map(|o| o.version).max();
    if opset.unwrap_or(0) < 7 {
        return Err(Error::unsupported("batch normalisation cannot be put back into a graph of an opset older than 7"));
    }
    let sites: Vec<Site> = sites::find(&proto);
    let measured = statistics::measure(model, &sites, batches)?;
    let mut count = 0;
    for (site, statistics) in sites.iter().zip(&measured) {
        // A single position is no feature map: the squeezed channels of an attention block were never normalised.
        if let Some(statistics) = statistics.as_ref().filter(|statistics| statistics.has_positions) {
            rewrite::normalise(&mut proto, site, statistics)?;
            count += 1;
        }
    }
    if count == 0 {
        return Err(Error::unsupported("no place was found at which batch normalisation could have been"));
    }
    if let Some(graph) = proto.graph.as_mut() {
        let read: HashSet<&String> = graph.node.iter().flat_map(|node| &node.input).collect();
        let replaced: HashSet<&String> = sites.iter().flat_map(|s| [&s.bias, &s.scale, &s.shift]).flatten().collect();
        graph.initializer.retain(|tensor| !replaced.contains(&tensor.name) || read.contains(&tensor.name));
    }
    let renewed = model.renewed(proto)?;
    Ok((renewed, count, sites.len() - count))
}
