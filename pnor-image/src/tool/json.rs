//! Writing JSON: objects, lists, strings and numbers, which is all that reports need.
//!
//! The surprise: this is by hand because a crate for it would be compiled into the tests of every crate that uses this
//! library, and its implementations of `PartialEq` make comparisons there ambiguous.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

/// A value.
#[derive(Clone, Debug)]
pub enum Json {
    /// Nothing.
    Null,
    /// True or false.
    Bool(bool),
    /// A number.
    Number(u64),
    /// Text.
    Text(String),
    /// A list.
    List(Vec<Json>),
    /// Names with their values.
    Object(Vec<(&'static str, Json)>),
}

impl Json {
    /// A list of texts.
    pub fn texts(texts: &[String]) -> Self {
        Self::List(texts.iter().cloned().map(Self::Text).collect())
    }

    /// Text, or nothing.
    pub fn optional(text: Option<&String>) -> Self {
        text.cloned().map_or(Self::Null, Self::Text)
    }

    /// The value as text, with line breaks.
    pub fn text(&self) -> String {
        let mut text = String::new();
        self.write(&mut text, 0);
        text
    }

    fn write(&self, text: &mut String, depth: usize) {
        match self {
            Self::Null => text.push_str("null"),
            Self::Bool(value) => text.push_str(if *value { "true" } else { "false" }),
            Self::Number(number) => text.push_str(&format!("{number}")),
            Self::Text(content) => quote(text, content),
            Self::List(values) => {
                block(text, depth, ['[', ']'], values, |text, value| {
                    value.write(text, depth + 1);
                });
            }
            Self::Object(values) => {
                block(text, depth, ['{', '}'], values, |text, (name, value)| {
                    quote(text, name);
                    text.push_str(": ");
                    value.write(text, depth + 1);
                });
            }
        }
    }
}

fn block<T>(
    text: &mut String,
    depth: usize,
    [open, close]: [char; 2],
    values: &[T],
    mut write: impl FnMut(&mut String, &T),
) {
    text.push(open);
    for (index, value) in values.iter().enumerate() {
        text.push_str(if index == 0 { "\n" } else { ",\n" });
        text.push_str(&"  ".repeat(depth + 1));
        write(text, value);
    }
    if !values.is_empty() {
        text.push('\n');
        text.push_str(&"  ".repeat(depth));
    }
    text.push(close);
}

fn quote(text: &mut String, content: &str) {
    text.push('"');
    for letter in content.chars() {
        match letter {
            '"' | '\\' => {
                text.push('\\');
                text.push(letter);
            }
            letter if letter.is_control() => {
                text.push_str(&format!("\\u{:04x}", u32::from(letter)));
            }
            letter => text.push(letter),
        }
    }
    text.push('"');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_written_as_others_read_them() {
        let value = Json::Object(Vec::from([
            ("a", Json::List(Vec::from([Json::Number(1), Json::Null]))),
            ("b", Json::texts(&[])),
            ("c", Json::Text("tab\t \"quoted\" \\ caf\u{e9}".into())),
            ("d", Json::Bool(true)),
        ]));
        let expected = "{\n  \"a\": [\n    1,\n    null\n  ],\n  \"b\": [],\n  \
            \"c\": \"tab\\u0009 \\\"quoted\\\" \\\\ caf\u{e9}\",\n  \"d\": true\n}";
        assert_eq!(value.text(), expected);
    }
}
