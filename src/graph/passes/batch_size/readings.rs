//! What a constant `Reshape` target may have meant.

/// The targets that a reshape from `from` to `to` may have meant when dimension `axis` of `from` holds the batch, likeliest last.
///
/// The batch is an axis of some stride in memory order. Where `axis` holds the batch alone that stride is known; where the
/// batch is merged with something else it is the outer or the inner factor. In `to` it can sit in any dimension that covers the
/// same strides: alone (surest), as the outer factor of a dimension (batch and heads), or as an inner one (tokens and batch).
pub(super) fn readings(from: &[i64], to: &[i64], axis: usize, batch: i64) -> Vec<Vec<i64>> {
    let stride = |shape: &[i64], axis: usize| shape[axis + 1..].iter().product::<i64>();
    let inner = stride(from, axis);
    let mut strides = vec![inner];
    if from[axis] != batch && from[axis] % batch == 0 {
        strides.insert(0, inner * (from[axis] / batch));
    }
    let mut scored: Vec<(usize, Vec<i64>)> = Vec::new();
    for (rank, &batch_stride) in strides.iter().enumerate() {
        for position in 0..to.len() {
            let (low, high) = (stride(to, position), stride(to, position) * to[position]);
            if low == 0 || batch_stride < low || batch_stride % low != 0 || batch_stride * batch > high {
                continue;
            }
            let score = if to[position] == batch && low == batch_stride {
                position.abs_diff(axis)
            } else if batch_stride * batch == high {
                100 + to.len() - position
            } else {
                200 + position
            };
            let mut shape = to.to_vec();
            shape[position] = -1;
            if !scored.iter().any(|(_, s)| *s == shape) {
                scored.push((1000 * rank + score, shape));
            }
        }
    }
    scored.sort_by_key(|(score, _)| std::cmp::Reverse(*score));
    scored.into_iter().map(|(_, shape)| shape).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lone_batch_dimension_is_found_first() {
        assert_eq!(readings(&[1, 512, 1, 1], &[1, 512], 0, 1).last(), Some(&vec![-1, 512]));
        assert_eq!(readings(&[1, 768, 14, 14], &[1, 768, 196], 0, 1).last(), Some(&vec![-1, 768, 196]));
    }

    #[test]
    fn batch_and_heads_come_before_tokens_and_batch() {
        let all = readings(&[197, 1, 768], &[197, 12, 64], 1, 1);
        assert_eq!(all.last(), Some(&vec![197, -1, 64]));
        assert!(all.contains(&vec![-1, 12, 64]));
    }

    #[test]
    fn merged_batches_can_be_either_factor() {
        let all = readings(&[12, 197, 64], &[1, 12, 197, 64], 0, 1);
        assert_eq!(all.last(), Some(&vec![-1, 12, 197, 64]));
    }
}
