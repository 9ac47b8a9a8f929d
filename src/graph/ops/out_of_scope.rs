//! Operators that are left out on purpose, with the reason.

/// Names, with their domain where it is not the standard one, and why they are left out.
pub const OUT_OF_SCOPE: &[(&str, &[&str])] = &[
    (
        "strings are no tensors here",
        &["StringNormalizer", "StringSplit", "StringConcat", "RegexFullMatch", "TfIdfVectorizer", "ai.onnx.ml.LabelEncoder"],
    ),
    (
        "sequences and optional values are resolved only where their content is known before the graph runs",
        &[
            "SequenceConstruct",
            "SequenceEmpty",
            "SequenceInsert",
            "SequenceErase",
            "SequenceAt",
            "SequenceLength",
            "SequenceMap",
            "SplitToSequence",
            "ConcatFromSequence",
            "Optional",
            "OptionalGetElement",
            "OptionalHasElement",
        ],
    ),
    (
        "it draws random numbers, so that an image has no one answer",
        &["Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike"],
    ),
    (
        "it is a step of training, which is done here by cmira itself",
        &["ai.onnx.preview.training.Adagrad", "ai.onnx.preview.training.Adam", "ai.onnx.preview.training.Momentum"],
    ),
    (
        "decision trees and their kin have no gradients",
        &[
            "ai.onnx.ml.TreeEnsemble",
            "ai.onnx.ml.TreeEnsembleClassifier",
            "ai.onnx.ml.TreeEnsembleRegressor",
            "ai.onnx.ml.ArrayFeatureExtractor",
            "ai.onnx.ml.Binarizer",
        ],
    ),
    (
        "its data are laid out for one kind of processor; optimise at the level ORT_ENABLE_EXTENDED, or give the graph as it was before",
        &[
            "com.microsoft.nchwc.ReorderInput",
            "com.microsoft.nchwc.ReorderOutput",
            "com.microsoft.nchwc.Conv",
            "com.microsoft.nchwc.MaxPool",
            "com.microsoft.nchwc.AveragePool",
            "com.microsoft.nchwc.GlobalMaxPool",
            "com.microsoft.nchwc.GlobalAveragePool",
            "com.microsoft.nchwc.Upsample",
        ],
    ),
    ("image files are decoded before a model sees them", &["ImageDecoder"]),
    ("it chooses among boxes, as detectors do", &["NonMaxSuppression"]),
    (
        "it is signal processing, not image classification",
        &["DFT", "STFT", "BlackmanWindow", "HammingWindow", "HannWindow", "MelWeightMatrix"],
    ),
];

/// Why an operator, named with its domain unless that is the standard one, is left out on purpose.
pub fn reason(qualified: &str) -> Option<&'static str> {
    OUT_OF_SCOPE.iter().find(|(_, names)| names.contains(&qualified)).map(|(reason, _)| *reason)
}
