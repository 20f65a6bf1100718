//! What `#[locked]` is put on: an async function, or one whose body is a boxed future. Not what it becomes.

use proc_macro2::{Span, TokenStream, TokenTree};
use quote::ToTokens;
use syn::ext::IdentExt;
use syn::parse::{Parse, ParseStream};
use syn::visit_mut::{self, VisitMut};
use syn::{
    Attribute, Block, Error, Expr, FnArg, GenericArgument, Ident, PatIdent, Path, PathArguments,
    Result, ReturnType, Signature, Stmt, Type, TypeParamBound, Visibility,
};

pub(crate) struct Function {
    pub(crate) attributes: Vec<Attribute>,
    pub(crate) visibility: Visibility,
    pub(crate) signature: Signature,
    pub(crate) body: Body,
    pub(crate) body_span: Span,
    /// What the future resolves to.
    pub(crate) output: Type,
}

pub(crate) enum Body {
    /// The block of an `async fn`.
    Async(TokenTree),
    /// `pin(async move block)`, as async-trait writes it.
    Boxed { pin: Expr, block: Block },
}

impl Parse for Function {
    fn parse(input: ParseStream<'_>) -> Result<Self> {
        const NO_FUNCTION: &str =
            "#[locked] goes on an async fn: a function or a method with a body";
        let start = input.span();
        let no_function = |_| Error::new(start, NO_FUNCTION);
        let attributes = input.call(Attribute::parse_outer).map_err(no_function)?;
        let visibility = input.parse().map_err(no_function)?;
        let signature: Signature = input.parse().map_err(no_function)?;
        if !input.peek(syn::token::Brace) {
            return Err(Error::new(
                signature.ident.span(),
                "there is no body to run under the lock; put #[locked] on the implementation",
            ));
        }
        let body: TokenTree = input.parse()?;
        let body_span = body.span();
        let (body, output) = if signature.asyncness.is_some() {
            (Body::Async(body), output(&signature)?)
        } else {
            boxed(&signature, body)?
        };
        Ok(Self {
            attributes,
            visibility,
            signature,
            body,
            body_span,
            output,
        })
    }
}

impl Function {
    /// What the arguments are called that a key can name: also what patterns take out of them.
    pub(crate) fn arguments(&self) -> Vec<Ident> {
        struct Bindings(Vec<Ident>);
        impl VisitMut for Bindings {
            fn visit_pat_ident_mut(&mut self, binding: &mut PatIdent) {
                self.0.push(binding.ident.clone());
                visit_mut::visit_pat_ident_mut(self, binding);
            }
        }
        let mut bindings = Bindings(Vec::new());
        for argument in &self.signature.inputs {
            match argument {
                FnArg::Receiver(receiver) => {
                    bindings
                        .0
                        .push(Ident::new("self", receiver.self_token.span));
                }
                FnArg::Typed(argument) => bindings.visit_pat_mut(&mut argument.pat.clone()),
            }
        }
        bindings.0
    }

    /// Whether the output is written as a `Result` of an `Option`.
    pub(crate) fn returns_an_option(&self) -> bool {
        let Some(PathArguments::AngleBracketed(arguments)) = arguments_of(&self.output, "Result")
        else {
            return false;
        };
        let Some(GenericArgument::Type(value)) = arguments.args.first() else {
            return false;
        };
        arguments_of(value, "Option").is_some()
    }
}

fn output(signature: &Signature) -> Result<Type> {
    match &signature.output {
        ReturnType::Type(_, output) => Ok((**output).clone()),
        ReturnType::Default => Err(Error::new(
            signature.ident.span(),
            "a #[locked] function returns a `Result<T, E>` with `E: From<LockError>`: the lock may be busy or lost",
        )),
    }
}

/// Takes `Box::pin(async move { .. })` apart.
fn boxed(signature: &Signature, body: TokenTree) -> Result<(Body, Type)> {
    let no_future = || {
        Error::new(
            signature.fn_token.span,
            "a #[locked] function is async (or nothing but `Box::pin(async move { .. })`, and returns a `Pin<Box<dyn Future<..>>>`)",
        )
    };
    let body: Block = syn::parse2(body.into_token_stream())?;
    let [Stmt::Expr(Expr::Call(call), None)] = &*body.stmts else {
        return Err(no_future());
    };
    let (Expr::Path(pin), Some(Expr::Async(future)), 1) =
        (&*call.func, call.args.first(), call.args.len())
    else {
        return Err(no_future());
    };
    let is_pin = pin
        .path
        .segments
        .last()
        .is_some_and(|last| last.ident == "pin");
    let (true, Some(_), Some(output)) = (is_pin, &future.capture, boxed_output(signature)) else {
        return Err(no_future());
    };
    let body = Body::Boxed {
        pin: (*call.func).clone(),
        block: future.block.clone(),
    };
    Ok((body, output))
}

/// `T` of `Pin<Box<dyn Future<Output = T>>>`.
fn boxed_output(signature: &Signature) -> Option<Type> {
    let ReturnType::Type(_, output) = &signature.output else {
        return None;
    };
    let future = first_type(arguments_of(output, "Pin")?)?;
    let Type::TraitObject(future) = plain(first_type(arguments_of(future, "Box")?)?) else {
        return None;
    };
    future.bounds.iter().find_map(|bound| match bound {
        TypeParamBound::Trait(bound) => output_of(&bound.path),
        _ => None,
    })
}

fn output_of(future: &Path) -> Option<Type> {
    let last = future
        .segments
        .last()
        .filter(|last| last.ident == "Future")?;
    let PathArguments::AngleBracketed(arguments) = &last.arguments else {
        return None;
    };
    arguments.args.iter().find_map(|argument| match argument {
        GenericArgument::AssocType(output) if output.ident == "Output" => Some(output.ty.clone()),
        _ => None,
    })
}

/// The generic arguments of `ty` if it is called `name`.
fn arguments_of<'a>(ty: &'a Type, name: &str) -> Option<&'a PathArguments> {
    let Type::Path(path) = plain(ty) else {
        return None;
    };
    let last = path.path.segments.last()?;
    (last.ident.unraw() == name).then_some(&last.arguments)
}

fn first_type(arguments: &PathArguments) -> Option<&Type> {
    let PathArguments::AngleBracketed(arguments) = arguments else {
        return None;
    };
    arguments.args.iter().find_map(|argument| match argument {
        GenericArgument::Type(ty) => Some(ty),
        _ => None,
    })
}

/// Without the parentheses and the invisible groups that macros leave.
fn plain(ty: &Type) -> &Type {
    match ty {
        Type::Group(group) => plain(&group.elem),
        Type::Paren(paren) => plain(&paren.elem),
        _ => ty,
    }
}

/// The tokens of `ty` with `_` for each `impl Trait`, so that it can be written in a body.
pub(crate) fn inferred(ty: &Type) -> TokenStream {
    struct Infer;
    impl VisitMut for Infer {
        fn visit_type_mut(&mut self, ty: &mut Type) {
            if let Type::ImplTrait(_) = ty {
                *ty = syn::parse_quote!(_);
            }
            visit_mut::visit_type_mut(self, ty);
        }
    }
    let mut ty = ty.clone();
    Infer.visit_type_mut(&mut ty);
    ty.into_token_stream()
}
