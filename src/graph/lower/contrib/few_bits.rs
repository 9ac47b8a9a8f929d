//! Products with weights of 2, 4 or 8 bits.

use super::{Writer, input, int_or, only, optional};
use crate::error::{Error, Result};
use crate::onnx::proto::NodeProto;
use crate::tensor::{Device, Kind, Tensor, is_float};

/// Whether the node was one of these, and was replaced.
pub fn replace(writer: &mut Writer<'_>, node: &NodeProto) -> Result<bool> {
    if node.domain != super::DOMAIN || node.op_type != "MatMulNBits" {
        return Ok(false);
    }
    only(node, &["K", "N", "bits", "block_size", "accuracy_level", "weight_prepacked"], 6)?;
    if int_or(node, "weight_prepacked", 0) != 0 {
        return Err(Error::unsupported("com.microsoft.MatMulNBits that is packed for one kind of processor is not supported"));
    }
    if optional(node, 4).is_some() {
        return Err(Error::unsupported("com.microsoft.MatMulNBits with g_idx is not supported"));
    }
    let weights = Blocks::of(node)?.weights(writer, node)?;
    let weights = writer.constant(&weights)?;
    let output = writer.base.clone();
    match optional(node, 5) {
        Some(bias) => {
            let y = writer.node("MatMul", &[input(node, 0)?, &weights], vec![]);
            writer.last("Add", &[&y, bias], &output, vec![]);
        }
        None => writer.last("MatMul", &[input(node, 0)?, &weights], &output, vec![]),
    }
    Ok(true)
}

/// Weights `[N, K]` in blocks along K, each with a scale and a zero point.
struct Blocks {
    rows: i64,
    columns: i64,
    bits: i64,
    block: i64,
}

impl Blocks {
    fn of(node: &NodeProto) -> Result<Blocks> {
        let [rows, columns] = ["N", "K"].map(|name| int_or(node, name, 0));
        let (bits, block) = (int_or(node, "bits", 4), int_or(node, "block_size", 0));
        if ![2, 4, 8].contains(&bits) {
            return Err(Error::unsupported(format!("com.microsoft.MatMulNBits with {bits} bits is not supported")));
        }
        // Those that ONNX Runtime takes.
        let known = [16, 32, 64, 128, 256].contains(&block);
        let padded = columns.checked_add(block).and_then(|columns| columns.checked_mul(rows));
        if !known || rows < 1 || columns < 1 || padded.is_none_or(|numbers| numbers > 1 << 28) {
            return Err(Error::malformed(format!("weights of {rows} x {columns} in blocks of {block}")));
        }
        Ok(Blocks { rows, columns, bits, block })
    }

    /// How many blocks a row has.
    fn count(&self) -> i64 {
        (self.columns + self.block - 1) / self.block
    }

    /// `[K, N]`: `(q - zero) * scale`.
    fn weights(&self, writer: &Writer<'_>, node: &NodeProto) -> Result<Tensor> {
        let (rows, count) = (self.rows, self.count());
        let scale = writer.value(input(node, 2)?)?;
        let kind = scale.f_kind()?;
        let scale = scale.f_to_kind(Kind::Float)?.f_reshape([rows, count, 1])?;
        let quantised = self.unpacked(&writer.value(input(node, 1)?)?, count * self.block)?;
        let quantised = quantised.f_reshape([rows, count, self.block])?;
        let zero = match optional(node, 3) {
            None => Tensor::f_full([1], 1_i64 << (self.bits - 1), (Kind::Float, Device::Cpu))?,
            Some(name) => {
                let zero = writer.value(name)?;
                let zero = if is_float(zero.f_kind()?) { zero } else { self.unpacked(&zero, count)? };
                zero.f_to_kind(Kind::Float)?.f_reshape([rows, count, 1])?
            }
        };
        let weights = quantised.f_to_kind(Kind::Float)?.f_sub(&zero)?.f_mul(&scale)?;
        let weights = weights.f_reshape([rows, count * self.block])?.f_narrow(1, 0, self.columns)?;
        Ok(weights.f_tr()?.f_contiguous()?.f_to_kind(kind)?)
    }

    /// Rows of `length` numbers out of bytes that hold several, the lowest bits first.
    fn unpacked(&self, bytes: &Tensor, length: i64) -> Result<Tensor> {
        let bytes = bytes.f_to_kind(Kind::Int64)?.f_reshape([self.rows, -1, 1])?;
        let range = 1_i64 << self.bits;
        let steps = Tensor::f_arange(8 / self.bits, (Kind::Int64, Device::Cpu))?;
        let divisors = Tensor::f_pow_scalar(range, &steps)?;
        let numbers = bytes.f_div_tensor_mode(&divisors, "floor")?.f_remainder(range)?;
        let numbers = numbers.f_reshape([self.rows, -1])?;
        if numbers.size().last().is_none_or(|&found| found < length) {
            return Err(Error::malformed(format!(
                "{:?} packed numbers where {} x {length} are expected",
                numbers.size(),
                self.rows
            )));
        }
        Ok(numbers.f_narrow(1, 0, length)?)
    }
}
