//! Writing elements by index.

use super::gather::{row_numbers, tuple_length};
use super::operands::{device_of, dim, elements, indices, on};
use super::{Flow, Kernel, Node, Op, axis_in, one};
use crate::error::{Error, Result};
use crate::tensor::Tensor;

/// The rows of this family.
pub const OPS: &[Op] = &[
    Op::new("Scatter", 9, 3, scatter_elements).at_least(3).flow(Flow::Assembles).gradients(&[0, 2]),
    Op::new("ScatterElements", 11, 3, scatter_elements).at_least(3).flow(Flow::Assembles).gradients(&[0, 2]),
    Op::new("ScatterND", 11, 3, scatter_nd).at_least(3).flow(Flow::Assembles).gradients(&[0, 2]),
];

/// How an update meets what is there.
#[derive(Debug, Clone, Copy)]
enum Reduction {
    Replace,
    Add,
    /// libtorch's name of the reduction.
    By(&'static str),
}

fn reduction(node: &Node<'_>) -> Result<Reduction> {
    let text = if node.opset >= 16 { node.text_or("reduction", "none")? } else { "none".to_string() };
    Ok(match text.as_str() {
        "none" => Reduction::Replace,
        "add" => Reduction::Add,
        "mul" => Reduction::By("prod"),
        "max" => Reduction::By("amax"),
        "min" => Reduction::By("amin"),
        other => return node.unsupported(format!("reduction '{other}'")),
    })
}

fn scatter_elements(node: &Node<'_>) -> Result<Kernel> {
    let axis = node.int_or("axis", 0)?;
    let reduction = reduction(node)?;
    one(move |call| {
        let (x, index, updates) = (call.input(0)?, call.input(1)?, call.input(2)?);
        if index.size() != updates.size() || index.dim() != x.dim() {
            return Err(Error::malformed(format!(
                "data of shape {:?}, indices {:?} and updates {:?} do not fit",
                x.size(),
                index.size(),
                updates.size()
            )));
        }
        let axis = axis_in(axis, x.dim())?;
        let device = device_of([x, index, updates]);
        let index = indices(index, dim(&x.size(), axis)?, device)?;
        let (x, updates) = (on(x, device)?, on(updates, device)?);
        Ok(match reduction {
            Reduction::Replace => x.f_scatter(axis, &index, &updates)?,
            Reduction::Add => x.f_scatter_add(axis, &index, &updates)?,
            Reduction::By(name) => x.f_internal_scatter_reduce(axis, &index, &updates, name, true)?,
        })
    })
}

fn scatter_nd(node: &Node<'_>) -> Result<Kernel> {
    let reduction = reduction(node)?;
    one(move |call| {
        let (x, index, updates) = (call.input(0)?, call.input(1)?, call.input(2)?);
        let shape = x.size();
        let length = tuple_length(index, shape.len())?;
        let (indexed, rest) = shape.split_at(length);
        let device = device_of([x, index, updates]);
        let rows = row_numbers(index, indexed, device)?;
        let row = elements(rest)?;
        let flat = on(x, device)?.f_reshape([elements(indexed)?, row])?;
        let updates = on(updates, device)?.f_reshape([rows.size().first().copied().unwrap_or(0), row])?;
        let result: Tensor = match reduction {
            Reduction::Replace => flat.f_index_copy(0, &rows, &updates)?,
            Reduction::Add => flat.f_index_add(0, &rows, &updates)?,
            Reduction::By(name) => flat.f_index_reduce(0, &rows, &updates, name, true)?,
        };
        Ok(result.f_reshape(shape)?)
    })
}
