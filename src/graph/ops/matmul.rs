//! Matrix products.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;

use super::conv::centred;
use super::operands::{broadcast, device_of, elements, is_whole, on, pair, variadic};
use super::{ALL, ByExample, Call, ExampleRule, InBf16, Kernel, Node, Op, one};
use crate::error::{Error, Result};
use crate::tensor::{Kind, Tensor};

/// The rows of this family.
pub const OPS: &[Op] = &[
    Op::new("MatMul", 1, 2, |_| {
        one(|call| {
            let (a, b) = pair(call)?;
            bound(&a.size(), &b.size())?;
            Ok(a.f_matmul(&b)?)
        })
    })
    .at_least(2)
    .weights(&[0, 1])
    .gradients(ALL)
    .sketched(|_| {
        one(|call| {
            let (a, b) = pair(call)?;
            sketch(&a, &b)
        })
    })
    .by_example(ByExample::Rule(|_| Ok(Box::new(matmul_by_example))))
    .in_bf16(InBf16::Narrows),
    Op::new("FusedMatMul", 1, 2, |node| fused(node, false))
        .domain("com.microsoft")
        .at_least(2)
        .weights(&[0, 1])
        .gradients(ALL)
        .sketched(|node| fused(node, true))
        .in_bf16(InBf16::Narrows),
    Op::new("Gemm", 1, 3, |node| gemm(node, false))
        .at_least(3)
        .weights(&[0, 1, 2])
        .gradients(ALL)
        .sketched(|node| gemm(node, true))
        .by_example(ByExample::Rule(gemm_by_example))
        .in_bf16(InBf16::Narrows),
    Op::new("Gemm", 11, 3, |node| gemm(node, false))
        .at_least(2)
        .weights(&[0, 1, 2])
        .gradients(ALL)
        .sketched(|node| gemm(node, true))
        .by_example(ByExample::Rule(gemm_by_example))
        .in_bf16(InBf16::Narrows),
    Op::new("Einsum", 12, usize::MAX, |node| {
        let Some(equation) = node.text("equation")? else { return Err(Error::malformed("attribute 'equation' is missing")) };
        let einsum = Einsum::of(&equation);
        one(move |call| {
            let operands = variadic(call)?;
            einsum.bound(&operands)?;
            Ok(Tensor::f_einsum(&equation, &operands, None::<i64>)?)
        })
    })
    .weights(&[0, 1, 2, 3])
    .gradients(ALL),
    Op::new("Det", 11, 1, |_| one(|call| Ok(call.input(0)?.f_det()?))),
    Op::new("MatMulInteger", 10, 4, |_| one(matmul_integer)).at_least(2).gradients(&[]),
];

/// Refuses a product of two thin matrices that is far larger than both. Shapes that do not fit are libtorch's to refuse.
fn bound(a: &[i64], b: &[i64]) -> Result<()> {
    if let ([stack_a @ .., rows, _], [stack_b @ .., _, columns]) = (a, b) {
        let mut shape = broadcast(stack_a, stack_b)?;
        shape.extend([rows, columns]);
        elements(&shape)?;
    }
    Ok(())
}

/// `alpha A' B'`, where the last two axes of an operand are exchanged on request.
///
/// Source: <https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md#com.microsoft.FusedMatMul>.
fn fused(node: &Node<'_>, sketched: bool) -> Result<Kernel> {
    let alpha = node.float_or("alpha", 1.0)?;
    let turns = [node.flag("transA")?, node.flag("transB")?];
    if node.flag("transBatchA")? || node.flag("transBatchB")? {
        return node.unsupported("transBatchA or transBatchB");
    }
    one(move |call| {
        let (a, b) = pair(call)?;
        let turned = |x: Tensor, turn: bool| if turn && x.dim() >= 2 { x.f_transpose(-2, -1) } else { Ok(x) };
        let (a, b) = (turned(a, turns[0])?, turned(b, turns[1])?);
        bound(&a.size(), &b.size())?;
        scaled(&if sketched { sketch(&a, &b)? } else { a.f_matmul(&b)? }, alpha)
    })
}

/// In place of `a b` for a matrix b: every row of the result is made of the same row of `a` alone, and of all its numbers.
fn sketch(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    let (&[inner, columns], Some(&length)) = (b.size().as_slice(), a.size().last()) else { return Ok(a.f_matmul(b)?) };
    if a.dim() < 2 || inner != length || length == 0 || is_whole(a.f_kind()?) || a.f_kind()? != b.f_kind()? {
        return Ok(a.f_matmul(b)?);
    }
    let copies = usize::try_from((columns + length - 1) / length).map_err(Error::malformed)?;
    let picked = if copies > 1 { Tensor::f_cat(&vec![a; copies], -1)? } else { a.shallow_clone() };
    let factors = Tensor::f_linspace(0.5, 1.5, columns, (Kind::Float, a.device()))?.f_to_kind(a.f_kind()?)?;
    let mean = a.f_mean_dim(-1_i64, true, a.f_kind()?)?;
    Ok(picked.f_narrow(-1, 0, columns)?.f_add(&mean)?.f_mul(&factors)?)
}

/// Of a matrix to the right of examples `[n, ..., k]`.
fn matmul_by_example(call: &Call<'_>, gradient: &Tensor, position: usize) -> Result<Option<Tensor>> {
    let (a, b) = pair(call)?;
    let (&[rows, columns], true) = (b.size().as_slice(), position == 1 && a.dim() >= 2) else { return Ok(None) };
    let n = a.size()[0];
    let (a, gradient) = (a.f_reshape([n, -1, rows])?, gradient.f_reshape([n, -1, columns])?);
    Ok(Some(a.f_transpose(1, 2)?.f_matmul(&gradient)?))
}

/// Of B and C in `alpha A B' + beta C`, where the rows of A are the examples.
fn gemm_by_example(node: &Node<'_>) -> Result<ExampleRule> {
    let (alpha, beta) = (node.float_or("alpha", 1.0)?, node.float_or("beta", 1.0)?);
    let (transpose_a, transpose_b) = (node.flag("transA")?, node.flag("transB")?);
    Ok(Box::new(move |call, gradient, position| {
        let n = gradient.size().first().copied().unwrap_or(0);
        match position {
            _ if transpose_a => Ok(None),
            1 => {
                let (a, gradient) = (call.input(0)?.f_unsqueeze(2)?, gradient.f_unsqueeze(1)?);
                let product = a.f_mul(&gradient)?;
                scaled(&if transpose_b { product.f_transpose(1, 2)? } else { product }, alpha).map(Some)
            }
            2 => {
                let c = call.input(2)?.size();
                let own = |wide: Tensor| -> Result<Tensor> {
                    let shape: Vec<i64> = [n].into_iter().chain(c.iter().copied()).collect();
                    Ok(wide.f_reshape(shape)?)
                };
                match c.as_slice() {
                    [] | [1] | [1, 1] => own(scaled(&gradient.f_sum_dim_intlist(1_i64, false, None::<Kind>)?, beta)?).map(Some),
                    [_] | [1, _] => own(scaled(gradient, beta)?).map(Some),
                    _ => Ok(None),
                }
            }
            _ => Ok(None),
        }
    }))
}

/// The labels of an Einsum equation, to know how large its results become; whether it is one is libtorch's to say.
struct Einsum {
    /// One for each operand, with [`ELLIPSIS`] for `...`.
    terms: Vec<Vec<char>>,
    result: Vec<char>,
}

const ELLIPSIS: char = '.';

impl Einsum {
    fn of(equation: &str) -> Einsum {
        let equation: String = equation.replace("...", ".").chars().filter(|label| !label.is_whitespace()).collect();
        let (terms, result) =
            equation.split_once("->").map_or((equation.as_str(), None), |(terms, result)| (terms, Some(result)));
        let counted = |label: char| label == ELLIPSIS || terms.matches(label).count() == 1;
        let result = result.map_or_else(|| terms.chars().filter(|&l| l != ',' && counted(l)).collect(), |r| r.chars().collect());
        Einsum { terms: terms.split(',').map(|term| term.chars().collect()).collect(), result }
    }

    /// Operands are contracted from left to right: refuses them where a result on the way is larger than [`elements`] allows.
    fn bound(&self, operands: &[Tensor]) -> Result<()> {
        let mut sizes: BTreeMap<char, i64> = BTreeMap::new();
        let mut terms = Vec::with_capacity(self.terms.len());
        for (term, operand) in self.terms.iter().zip(operands) {
            let shape = operand.size();
            let term = expanded(term, (shape.len() + 1).saturating_sub(term.len()));
            for (&label, &size) in term.iter().zip(&shape) {
                let known = sizes.entry(label).or_insert(size);
                *known = size.max(*known);
            }
            terms.push(term);
        }
        let result = expanded(&self.result, AXES.count());
        for end in 1..terms.len() {
            let (done, ahead) = terms.split_at(end + 1);
            let mut kept = BTreeSet::from_iter(done.iter().flatten());
            kept.retain(|label| result.contains(label) || ahead.iter().flatten().any(|later| later == *label));
            elements(&kept.iter().filter_map(|label| sizes.get(label).copied()).collect::<Vec<_>>())?;
        }
        Ok(())
    }
}

/// Labels of the axes behind an ellipsis, the last one first. No equation can name them.
const AXES: RangeInclusive<char> = '\u{e000}'..='\u{e0ff}';

/// Labels in which every axis behind an ellipsis has its own.
fn expanded(labels: &[char], axes: usize) -> Vec<char> {
    let axes: Vec<char> = AXES.take(axes).collect();
    let one = |&label: &char| if label == ELLIPSIS { axes.iter().rev().copied().collect() } else { vec![label] };
    labels.iter().flat_map(one).collect()
}

/// `alpha * A' * B' + beta * C`, where C broadcasts to the product's shape.
#[derive(Debug, Clone, Copy)]
struct Gemm {
    alpha: f64,
    beta: f64,
    transpose_a: bool,
    transpose_b: bool,
    /// Below opset 7, C broadcasts only if the node says so.
    exact: bool,
    /// Whether the product is a [`sketch`].
    sketched: bool,
}

fn gemm(node: &Node<'_>, sketched: bool) -> Result<Kernel> {
    let gemm = Gemm {
        alpha: node.float_or("alpha", 1.0)?,
        beta: node.float_or("beta", 1.0)?,
        transpose_a: node.flag("transA")?,
        transpose_b: node.flag("transB")?,
        exact: node.opset < 7 && !node.flag("broadcast")?,
        sketched,
    };
    one(move |call| gemm.run(call))
}

impl Gemm {
    fn run(self, call: &Call<'_>) -> Result<Tensor> {
        let (a, b) = pair(call)?;
        if a.dim() != 2 || b.dim() != 2 {
            return Err(Error::malformed(format!("A of shape {:?} and B of shape {:?} are not matrices", a.size(), b.size())));
        }
        let (rows, columns) = (a.size()[usize::from(self.transpose_a)], b.size()[usize::from(!self.transpose_b)]);
        elements(&[rows, columns])?;
        let c = call.optional(2).map(|c| on(c, device_of([&a, c]))).transpose()?;
        let plain = !self.sketched && self.alpha == 1.0 && self.beta == 1.0 && !self.transpose_a && self.transpose_b;
        let fits = |c: &Tensor| c.dim() == 1 && c.size().first() == b.size().first();
        if plain && !is_whole(a.f_kind()?) && c.as_ref().is_none_or(fits) {
            return Ok(a.f_linear(&b, c.as_ref())?);
        }
        let a = if self.transpose_a { a.f_tr()? } else { a };
        let b = if self.transpose_b { b.f_tr()? } else { b };
        let product = scaled(&if self.sketched { sketch(&a, &b)? } else { a.f_mm(&b)? }, self.alpha)?;
        let Some(c) = c else { return Ok(product) };
        let shape = product.size();
        if self.exact && c.size() != shape {
            return Err(Error::malformed(format!("C of shape {:?} where {shape:?} is expected", c.size())));
        }
        let c = scaled(&c, self.beta)?.f_expand(&shape, false)?;
        Ok(product.f_add(&c)?)
    }
}

/// Integer operands stay integers.
fn scaled(x: &Tensor, factor: f64) -> Result<Tensor> {
    if factor == 1.0 {
        return Ok(x.shallow_clone());
    }
    Ok(x.f_mul_scalar(factor)?.f_to_kind(x.f_kind()?)?)
}

/// Computed in double precision, which holds every sum of 8-bit products exactly. Zero points may be one for each row of A and
/// one for each column of B.
fn matmul_integer(call: &Call<'_>) -> Result<Tensor> {
    let (a, b) = pair(call)?;
    let a = centred(&a, call.optional(2), Some(if a.dim() < 2 { -1 } else { -2 }))?;
    let b = centred(&b, call.optional(3), Some(-1))?;
    Ok(a.f_matmul(&b)?.f_to_kind(Kind::Int)?)
}
