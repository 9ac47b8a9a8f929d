//! The operator table as a page for readers: `docs/operators.md` is what [`markdown`] gives.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::out_of_scope::OUT_OF_SCOPE;
use super::{ALL, NEWEST_OPSET, Op, all};
use crate::graph::lower::REPLACED;

/// All operators, the opsets in which a definition of theirs begins, their weights and their gradients, as Markdown.
pub fn markdown() -> String {
    let mut rows: BTreeMap<(&str, &str), Vec<&Op>> = BTreeMap::new();
    for op in all() {
        rows.entry((op.domain, op.name)).or_default().push(op);
    }
    let mut page = format!(
        "# Operators\n\n\
         Made by `cmira operators` from the tables that the importer itself reads. {} operators, up to opset {NEWEST_OPSET}. *Begins*: the opsets in\n\
         which a definition begins; each holds until the next. *Weights*: inputs that become trainable parameters where they are constant floats.\n\
         *Gradients*: inputs through which gradients flow; a model can be trained through these only. Inputs are counted from 0.\n\n\
         | operator | begins | weights | gradients |\n|---|---|---|---|\n",
        rows.len()
    );
    for ((domain, name), mut versions) in rows {
        versions.sort_by_key(|op| op.since);
        let begins: Vec<String> = versions.iter().map(|op| op.since.to_string()).collect();
        let Some(newest) = versions.last() else { continue };
        let qualified = if domain.is_empty() { name.to_string() } else { format!("{domain}.{name}") };
        let (weights, gradients) = (positions(newest.weights), positions(newest.differentiable));
        // Writing to a String cannot fail.
        let _ = writeln!(page, "| {qualified} | {} | {weights} | {gradients} |", begins.join(", "));
    }
    page.push_str(
        "\n## Replaced by what they stand for\n\nBefore the graph is compiled; what comes out, and can be exported, is standard ONNX.\n\n\
         | operators | become |\n|---|---|\n| calls of the model's own functions | the functions' nodes |\n\
         | sequences and optional values whose content is known | the tensors in them |\n| ai.onnx.ml.Scaler | Sub, Mul |\n\
         | QLinearConv, QLinearMatMul with constant scales; ConvInteger, MatMulInteger of constant weights whose scale is found behind them | \
         DequantizeLinear, Conv or MatMul, QuantizeLinear |\n",
    );
    let _ = writeln!(page, "| com.microsoft: {} | standard operators |", REPLACED.join(", "));
    page.push_str("\n## Left out on purpose\n\n| operators | why |\n|---|---|\n");
    for (reason, names) in OUT_OF_SCOPE {
        let _ = writeln!(page, "| {} | {reason} |", names.join(", "));
    }
    page.push_str("\nAny other operator is refused by name as not supported.\n");
    page
}

fn positions(inputs: &[usize]) -> String {
    if inputs == ALL {
        return "all".to_string();
    }
    inputs.iter().map(usize::to_string).collect::<Vec<_>>().join(", ")
}
