//! The MiniJinja environment of all templates and conditions.

use std::sync::LazyLock;

use minijinja::value::Rest;
use minijinja::{Environment, Error, State, UndefinedBehavior, Value, filters as builtin};

use super::filters;
use super::value::write_engine_text;

/// Made once: it holds nothing of the configuration.
pub(super) static ENGINE: LazyLock<Environment<'static>> = LazyLock::new(environment);

/// What [`ENGINE`] knows besides variables.
pub(super) const FUNCTIONS: [&str; 2] = ["dict", "namespace"];

/// Whether the engine has a `filter` or a `test` of that name.
pub(super) fn has(what: &str, name: &str) -> bool {
    let question = format!("{name:?} is {what}");
    let asked = ENGINE.compile_expression_owned(question).and_then(|q| q.eval(()));
    asked.is_ok_and(|answer| answer.is_true())
}

fn environment() -> Environment<'static> {
    let mut env = Environment::new();
    // A key that a JSON column lacks is like NULL, as Postgres' `->` has it;
    // misspelled columns are found at start, where the catalog is at hand.
    env.set_undefined_behavior(UndefinedBehavior::Chainable);
    // Rows are small; these two would let a template be slow without one.
    env.remove_global("range");
    env.remove_global("debug");
    env.set_formatter(|out, _state, value| {
        let mut text = String::new();
        if write_engine_text(&mut text, value).is_none() {
            text = value.to_string();
        }
        Ok(std::fmt::Write::write_str(out, &text)?)
    });
    for (name, filter) in [
        ("abs", Value::from_function(builtin::abs)),
        ("capitalize", Value::from_function(builtin::capitalize)),
        ("dotted", Value::from_function(filters::dotted)),
        ("float", Value::from_function(builtin::float)),
        ("int", Value::from_function(builtin::int)),
        ("iso", Value::from_function(filters::iso)),
        ("iso8601", Value::from_function(filters::iso8601)),
        ("lower", Value::from_function(builtin::lower)),
        ("replace", Value::from_function(builtin::replace)),
        ("round", Value::from_function(builtin::round)),
        ("string", Value::from_function(builtin::string)),
        ("title", Value::from_function(builtin::title)),
        ("trim", Value::from_function(builtin::trim)),
        ("upper", Value::from_function(builtin::upper)),
    ] {
        env.add_filter(name, null_stays_null(filter));
    }
    // These say of NULL what PHP does.
    env.add_filter("e", filters::e);
    env.add_filter("escape", filters::e);
    env.add_filter("number_format", filters::number_format);
    env
}

/// MiniJinja would make the text `none` of a NULL, and that a channel's name.
fn null_stays_null(
    filter: Value,
) -> impl Fn(&mut State<'_, '_>, Rest<Value>) -> Result<Value, Error> + Send + Sync + 'static {
    move |state, args| match args.first() {
        Some(input) if input.is_none() || input.is_undefined() => Ok(Value::from(())),
        _ => filter.call(state, &args),
    }
}
