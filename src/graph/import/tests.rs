#![allow(clippy::unwrap_used)]
use crate::graph::{Head, Model};
use crate::nets::InputShape;
use crate::nets::builder::Builder;
use crate::onnx::proto::NodeProto;
use crate::tensor::Device;

/// A softmax that is written out is known by its numbers, however many convolutions stand before it: their sketches would give none.
#[test]
fn a_softmax_behind_many_convolutions_is_known_by_its_numbers() {
    for written_out in [false, true] {
        let mut net = Builder::new(InputShape { channels: 3, height: 8, width: 8 }, 1).unwrap();
        let mut x = net.images();
        for layer in 0..16 {
            let map = net.conv(&format!("{layer}.conv"), &x, 16, 3, 1).unwrap();
            x = net.relu(&format!("{layer}.relu"), &map);
        }
        let pooled = net.global_average_pool("pool", &x).unwrap();
        let row = net.flatten("row", &pooled).unwrap();
        let scores = net.gemm("scores", &row, 10).unwrap();
        let mut proto = net.finish("plain", &scores).unwrap();
        let graph = proto.graph.mut_or_insert_default();
        if written_out {
            let last = graph.output[0].name.clone();
            graph
                .node
                .iter_mut()
                .flat_map(|node| &mut node.output)
                .filter(|name| **name == last)
                .for_each(|name| *name = "before".into());
            for (op, inputs, output) in
                [("Exp", vec!["before"], "e"), ("ReduceSum", vec!["e", "axes"], "sum"), ("Div", vec!["e", "sum"], last.as_str())]
            {
                graph.node.push(NodeProto {
                    op_type: op.into(),
                    input: inputs.into_iter().map(String::from).collect(),
                    output: vec![output.into()],
                    ..Default::default()
                });
            }
            let axes = crate::tensor::Tensor::f_from_slice(&[-1_i64]).unwrap();
            graph.initializer.push(crate::onnx::to_proto("axes", &axes).unwrap());
        }
        let head = Model::from_proto("plain", proto, Device::Cpu).unwrap().report().head;
        assert_eq!(head, if written_out { Head::Probabilities } else { Head::Logits });
    }
}
