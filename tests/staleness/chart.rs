//! A chart of lines over the seconds of a run, as SVG.

use std::fmt::Write;
use std::ops::Range;

const SIZE: (usize, usize) = (860, 500);
/// The place of the plot in the picture.
pub const LEFT: f64 = 70.0;
pub const RIGHT: f64 = 830.0;
pub const TOP: f64 = 90.0;
pub const BOTTOM: f64 = 440.0;
/// The side of its place at which a text stands.
const MIDDLE: &str = "text-anchor='middle'";
const END: &str = "text-anchor='end'";
/// Told apart by those who see no red and green, too.
const COLOURS: [&str; 3] = ["#0072b2", "#009e73", "#d55e00"];

pub struct Line {
    pub name: &'static str,
    /// Second by second from the first one: the thick line, and the thin one.
    pub max: Vec<f64>,
    pub mean: Vec<f64>,
}

pub struct Chart {
    pub title: String,
    /// The seconds that are shaded, and what they are.
    pub shaded: (Range<usize>, &'static str),
    pub lines: Vec<Line>,
}

impl Chart {
    fn seconds(&self) -> usize {
        self.lines[0].max.len()
    }

    /// The highest label of the y axis.
    fn top(&self) -> usize {
        let highest = self.lines.iter().flat_map(|line| &line.max).fold(1.0, |a: f64, b| a.max(*b));
        (highest / 20.0).ceil() as usize * 20
    }

    fn x(&self, second: usize) -> f64 {
        LEFT + (RIGHT - LEFT) * second as f64 / self.seconds() as f64
    }

    fn y(&self, value: f64) -> f64 {
        BOTTOM - (BOTTOM - TOP) * value / self.top() as f64
    }

    /// The picture. The texts must have no `<` or `&` in them.
    pub fn svg(&self) -> String {
        let ((width, height), (shaded, shaded_as)) = (SIZE, &self.shaded);
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" viewBox=\"0 0 {width} {height}\" \
             font-family=\"sans-serif\" font-size=\"13\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n"
        );
        let mut add = |element: String| writeln!(svg, "{element}").expect("a string takes all");
        add(text(self.x(0), 28.0, "font-size='17'", &self.title));
        let (from, to) = (self.x(shaded.start), self.x(shaded.end));
        add(format!(
            "<rect x=\"{from:.1}\" y=\"{TOP}\" width=\"{:.1}\" height=\"{}\" fill=\"#e8e8e8\"/>",
            to - from,
            BOTTOM - TOP
        ));
        add(text((from + to) / 2.0, TOP + 18.0, MIDDLE, shaded_as));
        for value in (0..=self.top()).step_by(20) {
            let y = self.y(value as f64);
            add(rule((LEFT, y), (RIGHT, y), "#cccccc"));
            add(text(LEFT - 8.0, y + 4.0, END, &value.to_string()));
        }
        for second in (0..=self.seconds()).step_by(25) {
            let x = self.x(second);
            add(rule((x, BOTTOM), (x, BOTTOM + 6.0), "black"));
            add(text(x, BOTTOM + 22.0, MIDDLE, &second.to_string()));
        }
        add(rule((LEFT, BOTTOM), (RIGHT, BOTTOM), "black"));
        add(rule((LEFT, TOP), (LEFT, BOTTOM), "black"));
        let (middle_x, middle_y) = (f64::midpoint(LEFT, RIGHT), f64::midpoint(TOP, BOTTOM));
        add(text(middle_x, BOTTOM + 46.0, MIDDLE, "time (s)"));
        let turned = format!("{MIDDLE} transform='rotate(-90 24 {middle_y})'");
        add(text(24.0, middle_y, &turned, "age of the oldest entry that is lacking (s)"));
        for (nth, (line, colour)) in self.lines.iter().zip(COLOURS).enumerate() {
            for (values, thickness) in [(&line.max, 2.5), (&line.mean, 1.0)] {
                add(self.polyline(values, colour, thickness));
            }
            let x = LEFT + 170.0 * nth as f64;
            add(format!("<line x1=\"{x}\" y1=\"58\" x2=\"{}\" y2=\"58\" stroke=\"{colour}\" stroke-width=\"2.5\"/>", x + 26.0));
            add(text(x + 34.0, 62.0, "", line.name));
        }
        add(text(RIGHT, 62.0, END, "thick: the worst log, thin: the mean of all"));
        svg.push_str("</svg>\n");
        svg
    }

    fn polyline(&self, values: &[f64], colour: &str, thickness: f64) -> String {
        let points: Vec<_> =
            (1..).zip(values).map(|(second, value)| format!("{:.1},{:.1}", self.x(second), self.y(*value))).collect();
        let points = points.join(" ");
        format!("<polyline fill=\"none\" stroke=\"{colour}\" stroke-width=\"{thickness}\" points=\"{points}\"/>")
    }
}

fn rule(from: (f64, f64), to: (f64, f64), colour: &str) -> String {
    let ((x1, y1), (x2, y2)) = (from, to);
    format!("<line x1=\"{x1:.1}\" y1=\"{y1:.1}\" x2=\"{x2:.1}\" y2=\"{y2:.1}\" stroke=\"{colour}\"/>")
}

fn text(x: f64, y: f64, attributes: &str, text: &str) -> String {
    format!("<text x=\"{x:.1}\" y=\"{y:.1}\" {attributes}>{text}</text>")
}
