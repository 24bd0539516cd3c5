//! The singular of a table's last word, as Laravel's `Str::singular` gives it.
//!
//! Its inflector cuts the `s` of a word that is singular already, so `atlas` is
//! `atla`; so does this, since a model is found by what Laravel says.

pub(super) fn singular(word: &str) -> String {
    let whole = WORDS.iter().find(|(plural, _)| word.eq_ignore_ascii_case(plural));
    let ending = || ENDINGS.iter().find(|(plural, _)| ends_with(word, plural));
    let Some((plural, singular)) = whole.or_else(ending) else {
        return word.to_owned();
    };
    let (stem, replaced) = word.split_at(word.len() - plural.len());
    let mut replacement = (*singular).to_owned();
    if replaced.starts_with(|first: char| first.is_ascii_uppercase()) {
        let all = replaced.bytes().all(|byte| byte.is_ascii_uppercase());
        let capitals = if all { replacement.len() } else { replacement.len().min(1) };
        replacement[..capitals].make_ascii_uppercase();
    }
    // A table may be called `s`.
    if stem.is_empty() && replacement.is_empty() {
        return word.to_owned();
    }
    format!("{stem}{replacement}")
}

fn ends_with(word: &str, ending: &str) -> bool {
    let start = word.len().checked_sub(ending.len());
    start.and_then(|start| word.get(start..)).is_some_and(|end| end.eq_ignore_ascii_case(ending))
}

/// Words that differ as a whole from what their ending says.
const WORDS: [(&str, &str); 22] = [
    ("abuses", "abuse"),
    ("axes", "axe"),
    ("bases", "basis"),
    ("clothes", "clothes"),
    ("corps", "corps"),
    ("debris", "debris"),
    ("foci", "focus"),
    ("gases", "gas"),
    ("jeans", "jeans"),
    ("lenses", "lens"),
    ("lice", "louse"),
    ("lives", "life"),
    ("mews", "mews"),
    ("news", "news"),
    ("oases", "oasis"),
    ("oxen", "ox"),
    ("pants", "pants"),
    ("rabies", "rabies"),
    ("shorts", "shorts"),
    ("sms", "sms"),
    ("theses", "thesis"),
    ("uses", "use"),
];

/// The first that a word ends with decides.
const ENDINGS: [(&str, &str); 62] = [
    ("people", "person"),
    ("children", "child"),
    ("men", "man"),
    ("feet", "foot"),
    ("teeth", "tooth"),
    ("geese", "goose"),
    ("mice", "mouse"),
    ("media", "medium"),
    ("stadia", "stadium"),
    ("bacteria", "bacterium"),
    ("curricula", "curriculum"),
    ("criteria", "criterion"),
    ("alumni", "alumnus"),
    ("fungi", "fungus"),
    ("nuclei", "nucleus"),
    ("radii", "radius"),
    ("stimuli", "stimulus"),
    ("syllabi", "syllabus"),
    // Both at once.
    ("ss", "ss"),
    ("status", "status"),
    ("campus", "campus"),
    ("chassis", "chassis"),
    ("series", "series"),
    ("species", "species"),
    ("headquarters", "headquarters"),
    ("proceedings", "proceedings"),
    ("scissors", "scissors"),
    ("trousers", "trousers"),
    // Of Greek and Latin words.
    ("indices", "index"),
    ("vertices", "vertex"),
    ("matrices", "matrix"),
    ("analyses", "analysis"),
    ("gnoses", "gnosis"),
    ("ntheses", "nthesis"),
    ("potheses", "pothesis"),
    ("crises", "crisis"),
    ("opses", "opsis"),
    // -es where the word does not end in an e of its own.
    ("quizzes", "quiz"),
    ("caches", "cache"),
    ("ches", "ch"),
    ("shes", "sh"),
    ("sses", "ss"),
    ("xes", "x"),
    ("auses", "ause"),
    ("ouses", "ouse"),
    ("uses", "us"),
    ("iases", "ias"),
    ("atlases", "atlas"),
    ("canvases", "canvas"),
    ("irises", "iris"),
    ("shoes", "shoe"),
    ("oes", "o"),
    // -y, -f and -fe.
    ("movies", "movie"),
    ("cookies", "cookie"),
    ("ies", "y"),
    ("leaves", "leaf"),
    ("thieves", "thief"),
    ("knives", "knife"),
    ("wives", "wife"),
    ("valves", "valve"),
    ("lves", "lf"),
    ("s", ""),
];
