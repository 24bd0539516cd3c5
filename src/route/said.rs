//! `context`: what a transaction has said of itself, to the engine.

use std::sync::Arc;

use minijinja::Value;
use minijinja::value::{Enumerator, Object};
use serde::Deserialize;

use super::reads::Touched;
use crate::change::Context;

/// NULL if it has said nothing. What is in it becomes the engine's only when an
/// expression asks for it: a transaction says little, and may change much.
pub(super) fn said(context: Option<&Arc<Context>>, touched: &Arc<Touched>) -> Value {
    match context {
        Some(context) => {
            Value::from_object(Said { context: context.clone(), touched: touched.clone() })
        }
        None => Value::from(()),
    }
}

#[derive(Debug)]
struct Said {
    context: Arc<Context>,
    touched: Arc<Touched>,
}

impl Object for Said {
    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        let value = self.context.values().get(key.as_str()?);
        let value = value.and_then(|value| Value::deserialize(value).ok());
        // As of a column: a channel with nothing in it is left out.
        if value.as_ref().is_none_or(Value::is_none) {
            self.touched.null();
        }
        value
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        let names = self.context.values().keys();
        Enumerator::Values(names.map(|name| Value::from(&**name)).collect())
    }
}
