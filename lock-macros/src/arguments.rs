//! What stands in the parentheses of `#[locked(..)]`. Not what it is put on.

use std::time::Duration;

use proc_macro2::Span;
use quote::ToTokens;
use syn::ext::IdentExt;
use syn::parse::{Parse, ParseStream};
use syn::{Error, Expr, Ident, LitBool, LitStr, Path, Result, Token, parse_quote};

use crate::duration;
use crate::template::Template;

/// What `lock-core` takes; one test compares the two.
const TTL_BOUNDS: (Duration, Duration) =
    (Duration::from_millis(10), Duration::from_secs(24 * 60 * 60));

const OPTIONS: &str = "ttl, wait, renew, on_busy, locks, guard and crate";

pub(crate) struct Arguments {
    pub(crate) template: Template,
    pub(crate) ttl: Option<Duration>,
    pub(crate) wait: Option<Duration>,
    pub(crate) renew: Option<bool>,
    /// Where it says that busy is no error.
    pub(crate) skip: Option<Span>,
    pub(crate) locks: Option<Expr>,
    /// What the body calls its guard.
    pub(crate) guard: Option<Ident>,
    /// Where fencelock is.
    pub(crate) krate: Path,
}

impl Parse for Arguments {
    fn parse(input: ParseStream<'_>) -> Result<Self> {
        let mut arguments = Self {
            template: key(input)?,
            ttl: None,
            wait: None,
            renew: None,
            skip: None,
            locks: None,
            guard: None,
            krate: parse_quote!(::fencelock),
        };
        let mut seen: Vec<Ident> = Vec::new();
        while !input.is_empty() {
            input.parse::<Token![,]>()?;
            if input.is_empty() {
                break;
            }
            let option = input.call(Ident::parse_any).map_err(|error| {
                Error::new(
                    error.span(),
                    format!(
                        "after the key come options, such as `ttl = \"300s\"`; there are {OPTIONS}"
                    ),
                )
            })?;
            if seen.contains(&option) {
                return Err(Error::new(
                    option.span(),
                    format!("`{option}` is given twice"),
                ));
            }
            arguments.option(&option, input)?;
            seen.push(option);
        }
        Ok(arguments)
    }
}

impl Arguments {
    fn option(&mut self, option: &Ident, input: ParseStream<'_>) -> Result<()> {
        let name = option.to_string();
        match &*name {
            "guard" if !input.peek(Token![=]) => {
                self.guard = Some(option.clone());
                return Ok(());
            }
            "ttl" | "wait" | "renew" | "on_busy" | "locks" | "guard" | "crate" => {}
            _ => {
                return Err(Error::new(
                    option.span(),
                    format!("`{name}` is no option of #[locked]; there are {OPTIONS}"),
                ));
            }
        }
        if !input.peek(Token![=]) {
            return Err(Error::new(
                option.span(),
                format!("`{name}` needs a value: `{name} = ..`"),
            ));
        }
        input.parse::<Token![=]>()?;
        if input.is_empty() || input.peek(Token![,]) {
            return Err(Error::new(
                option.span(),
                format!("`{name} =` needs a value after it"),
            ));
        }
        match &*name {
            "ttl" => self.ttl = Some(ttl(input)?),
            "wait" => self.wait = Some(duration(input, "wait = \"10s\"")?.0),
            "renew" => {
                let renew: LitBool =
                    literal(input, "`renew` is true or false, without quotation marks")?;
                self.renew = Some(renew.value);
            }
            "on_busy" => {
                const ADVICE: &str = "`on_busy` is \"skip\" or \"error\"";
                let what: LitStr = literal(input, ADVICE)?;
                self.skip = match &*what.value() {
                    "skip" => Some(what.span()),
                    "error" => None,
                    _ => return Err(Error::new(what.span(), ADVICE)),
                };
            }
            "locks" => self.locks = Some(input.parse()?),
            "guard" => {
                let name = input.parse::<Ident>();
                let advice = |error: Error| {
                    Error::new(
                        error.span(),
                        "`guard` is a new name for the body to use, without quotation marks: `guard = held`",
                    )
                };
                self.guard = Some(name.map_err(advice)?);
            }
            _ => {
                let path = input.call(Path::parse_mod_style);
                let advice = |error: Error| {
                    Error::new(error.span(), "`crate` is a path, without quotation marks")
                };
                self.krate = path.map_err(advice)?;
            }
        }
        Ok(())
    }
}

fn key(input: ParseStream<'_>) -> Result<Template> {
    const ADVICE: &str = "the first argument is the key, as text: #[locked(\"order:{id}\")]";
    if input.is_empty() {
        return Err(Error::new(Span::call_site(), ADVICE));
    }
    Template::parse(&literal(input, ADVICE)?)
}

fn ttl(input: ParseStream<'_>) -> Result<Duration> {
    let (ttl, span) = duration(input, "ttl = \"300s\"")?;
    let (least, most) = TTL_BOUNDS;
    if ttl < least || ttl > most {
        return Err(Error::new(span, "a ttl is 10 ms to 24 h"));
    }
    Ok(ttl)
}

fn duration(input: ParseStream<'_>, example: &str) -> Result<(Duration, Span)> {
    let text: LitStr = literal(
        input,
        &format!("durations are text with a unit, such as {example}"),
    )?;
    match duration::parse(&text.value()) {
        Ok(duration) => Ok((duration, text.span())),
        Err(advice) => Err(Error::new(text.span(), advice)),
    }
}

/// A literal of one kind; where something else stands there, all of it is what is wrong.
fn literal<T: Parse>(input: ParseStream<'_>, advice: &str) -> Result<T> {
    let mut expression: Expr = input.parse()?;
    // What a macro passes on stands in an invisible group.
    while let Expr::Group(group) = expression {
        expression = *group.expr;
    }
    syn::parse2(expression.to_token_stream()).map_err(|_| Error::new_spanned(&expression, advice))
}
