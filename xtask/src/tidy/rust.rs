//! Just enough of Rust's grammar to read paths from source text: comments and literals taken away, tokens left.

/// A word or a single other character, and the line that it is on, from 1.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Token {
    pub text: String,
    pub line: usize,
}

/// The tokens of a source file, without comments, literals and lifetimes.
pub fn tokens(source: &str) -> Vec<Token> {
    let chars: Vec<char> = source.chars().collect();
    let mut tokens = Vec::new();
    let (mut at, mut line) = (0, 1);
    while at < chars.len() {
        let end = if let Some(end) = skipped(&chars, at) {
            end
        } else if is_word(chars[at]) {
            let end = (at..chars.len()).find(|&i| !is_word(chars[i])).unwrap_or(chars.len());
            tokens.push(Token { text: chars[at..end].iter().collect(), line });
            end
        } else {
            if !chars[at].is_whitespace() {
                tokens.push(Token { text: chars[at].to_string(), line });
            }
            at + 1
        };
        line += chars[at..end].iter().filter(|c| **c == '\n').count();
        at = end;
    }
    tokens
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// Where the comment, literal or lifetime that begins here ends.
fn skipped(chars: &[char], at: usize) -> Option<usize> {
    let starts = |text: &str| text.chars().enumerate().all(|(i, c)| chars.get(at + i) == Some(&c));
    if starts("//") {
        return Some((at..chars.len()).find(|&i| chars[i] == '\n').unwrap_or(chars.len()));
    }
    if starts("/*") {
        return Some(end_of_block_comment(chars, at));
    }
    // A prefix counts only at the beginning of a word: `for"` is not a raw string.
    let begins_word = at == 0 || !is_word(chars[at - 1]);
    if begins_word {
        let prefix = ["br", "cr", "r", "b", "c"].into_iter().find(|prefix| starts(prefix)).unwrap_or("");
        let after = at + prefix.len();
        if prefix.ends_with('r') {
            let hashes = chars[after..].iter().take_while(|c| **c == '#').count();
            if chars.get(after + hashes) == Some(&'"') {
                return Some(end_of_raw_string(chars, after + hashes + 1, hashes));
            }
        } else if !prefix.is_empty() && chars.get(after) == Some(&'"') {
            return Some(end_of_quoted(chars, after));
        }
    }
    match chars[at] {
        '"' => Some(end_of_quoted(chars, at)),
        // `'a'` and `'\n'` are characters, `'a` is a lifetime.
        '\'' if chars.get(at + 1) == Some(&'\\') || chars.get(at + 2) == Some(&'\'') => Some(end_of_quoted(chars, at)),
        '\'' => Some((at + 1..chars.len()).find(|&i| !is_word(chars[i])).unwrap_or(chars.len())),
        _ => None,
    }
}

fn end_of_block_comment(chars: &[char], start: usize) -> usize {
    let (mut at, mut depth) = (start, 0_usize);
    while at < chars.len() {
        match (chars[at], chars.get(at + 1)) {
            ('/', Some('*')) => (at, depth) = (at + 2, depth + 1),
            ('*', Some('/')) => (at, depth) = (at + 2, depth - 1),
            _ => at += 1,
        }
        if depth == 0 {
            return at;
        }
    }
    chars.len()
}

fn end_of_raw_string(chars: &[char], start: usize, hashes: usize) -> usize {
    let closes = |at: usize| chars[at] == '"' && (1..=hashes).all(|i| chars.get(at + i) == Some(&'#'));
    (start..chars.len()).find(|&at| closes(at)).map_or(chars.len(), |at| at + 1 + hashes)
}

fn end_of_quoted(chars: &[char], start: usize) -> usize {
    let mut at = start + 1;
    while at < chars.len() && chars[at] != chars[start] {
        at += if chars[at] == '\\' { 2 } else { 1 };
    }
    (at + 1).min(chars.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(source: &str) -> Vec<String> {
        tokens(source).into_iter().map(|token| token.text).collect()
    }

    #[test]
    fn comments_and_literals_leave_nothing() {
        for source in [
            "a // crate::x\nb",
            "a /* c /* nested */ crate::x */ b",
            "a \"crate::x \\\" still\" b",
            "a r#\"crate::x \" still\"# b",
            "a br\"crate\\\" b",
            "a b\"x\" b",
            "a '\"' b",
            "a '\\'' b",
            "a 'life b",
        ] {
            assert_eq!(words(source), ["a", "b"], "{source}");
        }
    }

    #[test]
    fn what_is_left_keeps_its_line() {
        let lines: Vec<usize> = tokens("a\n/*\n*/ b\n\"\n\" c").into_iter().map(|token| token.line).collect();
        assert_eq!(lines, [1, 3, 5]);
    }

    #[test]
    fn unfinished_source_ends() {
        for source in ["\"", "'", "/*", "r#\"", "'\\", "\"\\"] {
            assert_eq!(words(source), [""; 0], "{source}");
        }
    }
}
