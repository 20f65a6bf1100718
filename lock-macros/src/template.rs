//! The template of a key: text with values in braces. Not which values there are: that is the function's to say.

use proc_macro2::Span;
use syn::ext::IdentExt;
use syn::parse::Parser;
use syn::{Error, Ident, LitStr, Member, Result};

/// What `lock-core` writes in another way within values, so that it separates them.
const SEPARATORS: [char; 3] = [':', '{', '}'];

pub(crate) struct Template {
    pub(crate) pieces: Vec<Piece>,
    /// Where it is written.
    pub(crate) span: Span,
}

#[derive(PartialEq, Eq)]
pub(crate) enum Piece {
    Text(String),
    Value(Value),
}

/// An argument, or a field of one, or a field of that.
#[derive(PartialEq, Eq)]
pub(crate) struct Value {
    /// Without `r#`.
    pub(crate) argument: String,
    pub(crate) fields: Vec<Member>,
}

impl Template {
    pub(crate) fn parse(literal: &LitStr) -> Result<Self> {
        let span = literal.span();
        let pieces = parse(&literal.value()).map_err(|message| Error::new(span, message))?;
        Ok(Self { pieces, span })
    }
}

fn parse(text: &str) -> std::result::Result<Vec<Piece>, String> {
    if text.is_empty() {
        return Err("the key is empty; name what is locked, for example \"order:{id}\"".to_owned());
    }
    let mut pieces = Vec::new();
    let mut plain = String::new();
    let mut rest = text.chars();
    while let Some(c) = rest.next() {
        let doubled = rest.as_str().starts_with(c);
        match c {
            '{' | '}' if doubled => {
                plain.push(c);
                rest.next();
            }
            '}' => {
                return Err(
                    "`}` without a `{` before it; a brace itself is written `}}`".to_owned(),
                );
            }
            '{' => {
                let Some((inside, after)) = rest.as_str().split_once('}') else {
                    return Err(
                        "`{` without a `}` after it; a brace itself is written `{{`".to_owned()
                    );
                };
                let value = parse_value(inside)?;
                let follows_another = matches!(pieces.last(), Some(Piece::Value(_)));
                if follows_another && !plain.contains(SEPARATORS) {
                    return Err(format!(
                        "there is no `:` between `{{{inside}}}` and the value before it, so that different values could \
                         make one key; put a `:` between them"
                    ));
                }
                if !plain.is_empty() {
                    pieces.push(Piece::Text(std::mem::take(&mut plain)));
                }
                pieces.push(Piece::Value(value));
                rest = after.chars();
            }
            _ => plain.push(c),
        }
    }
    if !plain.is_empty() {
        pieces.push(Piece::Text(plain));
    }
    Ok(pieces)
}

fn parse_value(inside: &str) -> std::result::Result<Value, String> {
    if inside.trim().is_empty() {
        return Err("`{}` names no argument; write for example `{id}` or `{order.id}`".to_owned());
    }
    if inside.replace("::", "").contains(':') {
        return Err(format!(
            "`{{{inside}}}` has a format specification; values in keys are always printed with Display, so leave out \
             what follows the `:`"
        ));
    }
    let no_value = |_| {
        format!(
            "`{{{inside}}}` is no argument and no field of one; write for example `{{id}}`, `{{order.id}}` or \
             `{{self.shop}}`, and compute what is more in the caller"
        )
    };
    let (argument, fields) = inside
        .split_once('.')
        .map_or((inside, None), |(a, f)| (a, Some(f)));
    let argument = Ident::parse_any.parse_str(argument).map_err(no_value)?;
    let fields = fields.into_iter().flat_map(|fields| fields.split('.'));
    let fields = fields.map(syn::parse_str).collect::<Result<_>>();
    let fields = fields.map_err(no_value)?;
    Ok(Value {
        argument: argument.unraw().to_string(),
        fields,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(text: &str) -> Piece {
        Piece::Text(text.to_owned())
    }

    fn value(argument: &str, fields: &[&str]) -> Piece {
        Piece::Value(Value {
            argument: argument.to_owned(),
            fields: fields
                .iter()
                .map(|field| syn::parse_str(field).unwrap())
                .collect(),
        })
    }

    #[test]
    fn a_template_is_text_and_values() {
        for (template, pieces) in [
            ("order", vec![text("order")]),
            ("{id}", vec![value("id", &[])]),
            ("order:{id}", vec![text("order:"), value("id", &[])]),
            (
                "{a.b.c}:{pair.0.1}:x",
                vec![
                    value("a", &["b", "c"]),
                    text(":"),
                    value("pair", &["0", "1"]),
                    text(":x"),
                ],
            ),
            ("{ self.shop }", vec![value("self", &["shop"])]),
            (
                "{r#type}:{type}",
                vec![value("type", &[]), text(":"), value("type", &[])],
            ),
            (
                "{{shop}}:{{{id}}}",
                vec![text("{shop}:{"), value("id", &[]), text("}")],
            ),
            (
                "{a}}}{b}",
                vec![value("a", &[]), text("}"), value("b", &[])],
            ),
            ("\u{e9}{\u{e9}}", vec![text("\u{e9}"), value("\u{e9}", &[])]),
        ] {
            assert!(parse(template).unwrap() == pieces, "{template}");
        }
    }

    #[test]
    fn everything_else_says_what_to_write() {
        for (template, advice) in [
            ("", "the key is empty"),
            ("order:{}", "names no argument"),
            ("order:{ }", "names no argument"),
            ("order:{id", "`{` without"),
            ("order:id}", "`}` without"),
            ("{{id}", "`}` without"),
            ("{id:?}", "leave out what follows the `:`"),
            ("{id:>5}", "leave out what follows the `:`"),
            ("{0}", "no argument"),
            ("{id()}", "no argument"),
            ("{a.b()}", "no argument"),
            ("{a + b}", "no argument"),
            ("{a.}", "no argument"),
            ("{a..b}", "no argument"),
            ("{&a}", "no argument"),
            ("{self::X}", "no argument"),
            ("{a.1u8}", "no argument"),
            ("{a}{b}", "no `:` between `{b}`"),
            ("x:{a}-{b}", "no `:` between `{b}`"),
        ] {
            let error = parse(template).err().unwrap();
            assert!(error.contains(advice), "{template}: {error}");
        }
    }
}
