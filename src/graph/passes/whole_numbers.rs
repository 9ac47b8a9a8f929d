//! Graphs that take whole numbers, the bytes of images, and begin by casting them are given floats: the same for every image, and what
//! a mixture of images is made of.

use crate::onnx::proto::tensor_proto::DataType;
use crate::onnx::proto::{GraphProto, NodeProto};

/// Types of whole numbers in which graphs take images.
const WHOLE: [DataType; 3] = [DataType::UINT8, DataType::INT32, DataType::INT64];

/// Types that hold every byte exactly.
const FLOATS: [DataType; 4] = [DataType::FLOAT, DataType::DOUBLE, DataType::FLOAT16, DataType::BFLOAT16];

/// What passes numbers on as they are.
const MOVES: [&str; 7] = ["Identity", "Transpose", "Reshape", "Squeeze", "Unsqueeze", "Flatten", "Slice"];

/// Declares the graph's image input as one of floats, if it is one of whole numbers and nothing is done with these before they are cast
/// to floats; gives its type as it was.
pub fn take_floats(graph: &mut GraphProto) -> Option<DataType> {
    let initializers: Vec<&str> = graph.initializer.iter().map(|tensor| tensor.name.as_str()).collect();
    let mut inputs = graph.input.iter().filter(|input| !initializers.contains(&input.name.as_str()));
    let (Some(input), None) = (inputs.next(), inputs.next()) else { return None };
    let declared = input.type_.as_ref().filter(|declared| declared.has_tensor_type())?.tensor_type().elem_type;
    let taken = WHOLE.into_iter().find(|kind| *kind as i32 == declared)?;
    let passed = passed_on(graph, &input.name)?;
    let name = input.name.clone();
    graph.value_info.retain(|info| !passed.contains(&info.name));
    let input = graph.input.iter_mut().find(|input| input.name == name)?;
    input.type_.as_mut()?.mut_tensor_type().elem_type = DataType::FLOAT as i32;
    Some(taken)
}

/// The names of the images up to where they are cast; `None` if anything else becomes of them.
fn passed_on(graph: &GraphProto, input: &str) -> Option<Vec<String>> {
    let mut names = vec![input.to_string()];
    let mut next = 0;
    while let Some(name) = names.get(next).cloned() {
        next += 1;
        if graph.output.iter().any(|output| output.name == name) {
            return None;
        }
        for node in graph.node.iter().filter(|node| crate::graph::body::read_names(node).any(|read| read == name)) {
            let first = node.input.first() == Some(&name) && node.input.iter().skip(1).all(|input| *input != name);
            if !first || !matches!(node.domain.as_str(), "" | "ai.onnx") {
                return None;
            }
            match node.op_type.as_str() {
                "Cast" if casts_to_floats(node) => {}
                // Sizes are the same whatever the numbers are.
                "Shape" | "Size" => {}
                operator if MOVES.contains(&operator) => names.extend(node.output.iter().take(1).cloned()),
                _ => return None,
            }
        }
    }
    Some(names)
}

fn casts_to_floats(node: &NodeProto) -> bool {
    let to = crate::graph::nodes::int_of(node, "to");
    FLOATS.into_iter().any(|kind| to == Some(i64::from(kind as i32)))
}
