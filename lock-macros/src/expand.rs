//! What a function becomes: take the lock, run the body until it is done or the lock is lost, let go. What is done in each
//! step is written in `lock-core`'s `locked.rs`.

use proc_macro2::{Span, TokenStream};
use quote::{quote, quote_spanned};
use syn::ext::IdentExt;
use syn::spanned::Spanned;
use syn::{Error, Ident, Result};

use crate::arguments::Arguments;
use crate::function::{Body, Function, inferred};
use crate::template::{Piece, Template, Value};

pub(crate) fn locked(arguments: TokenStream, item: TokenStream) -> TokenStream {
    let expanded = syn::parse2(arguments).and_then(|arguments: Arguments| {
        let function: Function = syn::parse2(item.clone())?;
        expand(&arguments, &function)
    });
    expanded.unwrap_or_else(|error| {
        // With the function as it stands, so that its callers are not in error too.
        let error = error.into_compile_error();
        quote! { #error #item }
    })
}

fn expand(arguments: &Arguments, function: &Function) -> Result<TokenStream> {
    let block = match &function.body {
        Body::Async(block) => {
            // Tells the body its type, as an `async fn` does.
            let (output, value) = (inferred(&function.output), internal("value"));
            let body = quote! {
                if let ::core::option::Option::Some(#value) = ::core::option::Option::None::<#output> {
                    return #value;
                }
                #block
            };
            under_lock(arguments, function, &body)?
        }
        Body::Boxed { pin, block } => {
            let stmts = &block.stmts;
            let body = under_lock(arguments, function, &quote!(#(#stmts)*))?;
            quote! { #pin(async move { #body }) }
        }
    };
    let Function {
        attributes,
        visibility,
        signature,
        ..
    } = function;
    let block = quote_spanned!(function.body_span=> { #block });
    Ok(quote! { #(#attributes)* #visibility #signature #block })
}

/// `body` in an async block of its own, between taking the lock and letting go of it.
fn under_lock(
    arguments: &Arguments,
    function: &Function,
    body: &TokenStream,
) -> Result<TokenStream> {
    let support = support(arguments);
    let [returns, lock, guard, error, outcome] =
        ["returns", "lock", "guard", "error", "outcome"].map(internal);
    let known = function.arguments();
    if let Some(name) = arguments.guard.iter().find(|name| known.contains(name)) {
        let message =
            format!("there is an argument `{name}` already; choose another name: `guard = held`");
        return Err(Error::new(name.span(), message));
    }
    let guard_for_body = arguments
        .guard
        .iter()
        .map(|name| quote!(let #name = #guard;));
    let lock_or_error = lock_expression(arguments, &known)?;
    let output = inferred(&function.output);
    let skip = skip(arguments, function)?.map(
        |none| quote!(::core::result::Result::Err(#error) if #error.is_busy() => return #none,),
    );
    // The body keeps its braces, as it may begin with attributes; the compiler calls those of a body on one line unnecessary.
    Ok(quote! {
        let #returns = #support::returns::<#output>();
        let #lock = #lock_or_error;
        let #guard = match #support::acquire(#lock).await {
            ::core::result::Result::Ok(#guard) => #guard,
            #skip
            ::core::result::Result::Err(#error) => return #returns.refused(#error),
        };
        #[allow(unused_braces)]
        let #outcome = {
            let #guard = &#guard;
            #support::run(#guard, async move {
                #(#guard_for_body)*
                #body
            })
        };
        let #outcome = #outcome.await;
        #returns.finish(#guard, #outcome).await
    })
}

/// The lock, or why there is none.
fn lock_expression(arguments: &Arguments, known: &[Ident]) -> Result<TokenStream> {
    let krate = &arguments.krate;
    let support = support(arguments);
    let name = name(arguments, known)?;
    let locks = match &arguments.locks {
        Some(locks) => quote_spanned!(locks.span()=> ::core::result::Result::Ok(&(#locks))),
        None => quote!(#krate::Locks::global()),
    };
    let options = options(arguments);
    Ok(quote!(#support::lock(#locks, #name, |lock| lock #options)))
}

fn options(arguments: &Arguments) -> TokenStream {
    let krate = &arguments.krate;
    let duration = |duration: std::time::Duration| {
        let (secs, nanos) = (duration.as_secs(), duration.subsec_nanos());
        quote!(::core::time::Duration::new(#secs, #nanos))
    };
    let ttl = arguments
        .ttl
        .map(duration)
        .map(|ttl| quote!(.with_ttl(#ttl)));
    let wait = arguments
        .wait
        .map(duration)
        .map(|wait| quote!(.with_wait(#wait)));
    let renewal = arguments.renew.map(|renew| match renew {
        true => {
            quote!(.with_renewal(<#krate::RenewalPolicy as ::core::default::Default>::default()))
        }
        false => quote!(.with_renewal(#krate::RenewalPolicy::never())),
    });
    quote!(#ttl #wait #renewal)
}

/// What the function returns when the lock is busy, if that is no error.
fn skip(arguments: &Arguments, function: &Function) -> Result<Option<TokenStream>> {
    let Some(span) = arguments.skip else {
        return Ok(None);
    };
    if !function.returns_an_option() {
        let mut error = Error::new_spanned(
            &function.output,
            "with `on_busy = \"skip\"` write the result as `Result<Option<T>, E>`: a skipped call returns `Ok(None)`",
        );
        error.combine(Error::new(span, "this is what returns `Ok(None)`"));
        return Err(error);
    }
    Ok(Some(quote!(::core::result::Result::Ok(
        ::core::option::Option::None
    ))))
}

/// The name of the lock, for `Locks::lock`.
fn name(arguments: &Arguments, known: &[Ident]) -> Result<TokenStream> {
    let support = support(arguments);
    let Template { pieces, span } = &arguments.template;
    let pieces = pieces.iter().map(|piece| match piece {
        Piece::Text(text) => Ok(quote!(#support::Piece::Text(#text))),
        Piece::Value(value) => {
            let value = path(value, known, *span)?;
            Ok(quote_spanned!(*span=> #support::Piece::Part(&#value)))
        }
    });
    let pieces = pieces.collect::<Result<Vec<_>>>()?;
    Ok(quote!([#(#pieces),*]))
}

/// `argument.field.field`, as the function's own body would write it, but blamed on the key.
fn path(value: &Value, known: &[Ident], span: Span) -> Result<TokenStream> {
    let Value { argument, fields } = value;
    let Some(binding) = known.iter().find(|known| known.unraw() == argument) else {
        return Err(Error::new(span, unknown(argument, known)));
    };
    let mut binding = binding.clone();
    binding.set_span(binding.span().located_at(span));
    let fields = fields.iter().cloned().map(|mut field| {
        match &mut field {
            syn::Member::Named(name) => name.set_span(span),
            syn::Member::Unnamed(index) => index.span = span,
        }
        field
    });
    Ok(quote_spanned!(span=> #binding #(.#fields)*))
}

fn unknown(argument: &str, known: &[Ident]) -> String {
    if argument == "self" {
        return "`{self}` in the key of a function without `self`".to_owned();
    }
    let known: Vec<_> = known
        .iter()
        .map(|known| format!("`{}`", known.unraw()))
        .collect();
    match &*known {
        [] => format!("`{{{argument}}}` in the key of a function without arguments"),
        _ => format!(
            "there is no argument `{argument}`; there are {}",
            known.join(", ")
        ),
    }
}

fn support(arguments: &Arguments) -> TokenStream {
    let krate = &arguments.krate;
    quote!(#krate::__locked)
}

/// A variable that the body does not see.
fn internal(name: &str) -> Ident {
    Ident::new(&format!("__{name}"), Span::mixed_site())
}
