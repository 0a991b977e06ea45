//! HTML in which nothing comes from outside unescaped.

use std::fmt::Write as _;

/// A piece of a page. Fixed words of ours become one by [`Html::raw`], all else by [`Piece`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Html(String);

impl Html {
    /// What is written in this program's own source.
    pub(crate) fn raw(fixed: &'static str) -> Self {
        Self(fixed.to_owned())
    }

    fn put(&mut self, text: &str) {
        for char in text.chars() {
            match char {
                '&' => self.0.push_str("&amp;"),
                '<' => self.0.push_str("&lt;"),
                '>' => self.0.push_str("&gt;"),
                '"' => self.0.push_str("&quot;"),
                '\'' => self.0.push_str("&#39;"),
                // What HTML has no place for.
                char if char.is_control() && !char.is_whitespace() => self.0.push('\u{FFFD}'),
                char => self.0.push(char),
            }
        }
    }

    /// Adds another piece.
    pub(crate) fn push(&mut self, more: Html) {
        self.0.push_str(&more.0);
    }

    /// The text.
    pub(crate) fn into_string(self) -> String {
        self.0
    }
}

impl FromIterator<Html> for Html {
    fn from_iter<I: IntoIterator<Item = Html>>(pieces: I) -> Self {
        let mut all = Self::default();
        pieces.into_iter().for_each(|piece| all.push(piece));
        all
    }
}

/// What can stand between fixed pieces: other HTML as it is, everything else escaped.
pub(crate) trait Piece {
    fn put_into(&self, html: &mut Html);
}

impl Piece for Html {
    fn put_into(&self, html: &mut Html) {
        html.0.push_str(&self.0);
    }
}

impl Piece for str {
    fn put_into(&self, html: &mut Html) {
        html.put(self);
    }
}

impl Piece for &str {
    fn put_into(&self, html: &mut Html) {
        html.put(self);
    }
}

impl Piece for String {
    fn put_into(&self, html: &mut Html) {
        html.put(self);
    }
}

impl Piece for f64 {
    /// A coordinate: one digit behind the point is enough for any screen.
    fn put_into(&self, html: &mut Html) {
        // Writing to a String cannot fail.
        let _ = write!(html.0, "{self:.1}");
    }
}

/// `html!("<p class=\"" (class) "\">" (text) "</p>")`: literals as they are, values in parentheses escaped unless they are HTML.
macro_rules! html {
    ($($fixed:literal $(($value:expr))*)*) => {{
        let mut html = $crate::html::Html::default();
        $(
            html.push($crate::html::Html::raw($fixed));
            $($crate::html::Piece::put_into(&$value, &mut html);)*
        )*
        html
    }};
}
pub(crate) use html;

#[cfg(test)]
mod tests {

    #[test]
    fn values_are_escaped_and_html_is_not_escaped_twice() {
        let inner = html!("<b>" ("a < b & \"c\" 'd'\u{0}") "</b>");
        let outer = html!("<p title=\"" ("\"><script>") "\">" (inner) (1.25) "</p>");
        assert_eq!(
            outer.into_string(),
            "<p title=\"&quot;&gt;&lt;script&gt;\"><b>a &lt; b &amp; &quot;c&quot; &#39;d&#39;\u{FFFD}</b>1.2</p>"
        );
    }
}
