//! The plots of the pages, as SVG: cost against size, and each demand's share of its capacity.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result, anyhow};
use plotters::prelude::*;

use super::demand::{Basis, Demand};
use super::figures::Line;

type Drawn = Result<(), DrawingAreaErrorKind<std::io::Error>>;

const SIZE: (u32, u32) = (760, 420);

/// A line of a plot: its name, and value by size.
type Series = (String, Vec<(f64, f64)>);

/// Draws every benchmark that was measured at several sizes; returns the names of the files.
pub(super) fn by_size(folder: &Path, figures: &[Line]) -> Result<Vec<String>> {
    std::fs::create_dir_all(folder).with_context(|| format!("the folder {}", folder.display()))?;
    let mut lines: BTreeMap<(String, String), Vec<Series>> = BTreeMap::new();
    for line in figures {
        let Some(size) = line.note("size") else { continue };
        let series = lines.entry((line.benchmark().to_owned(), line.unit.clone())).or_default();
        add(series, "Reeve", (size, line.value));
        for (name, value) in &line.baselines {
            add(series, name, (size, *value));
        }
    }
    let mut files = Vec::new();
    for ((benchmark, unit), mut series) in lines {
        // A peer is compared at one size, under a name of its own.
        let peers = format!("{benchmark}/peers");
        if let Some(peers) = figures.iter().find(|line| line.name == peers) {
            peers.baselines.iter().for_each(|(name, value)| add(&mut series, name, (peers.n as f64, *value)));
        }
        let name = format!("{benchmark}.svg");
        let title = format!("{benchmark}: {unit} by size");
        sizes(&folder.join(&name), &title, &unit, &series).map_err(|error| anyhow!("{name}: {error}"))?;
        files.push(name);
    }
    Ok(files)
}

fn add(series: &mut Vec<Series>, name: &str, point: (f64, f64)) {
    match series.iter_mut().find(|(known, _)| known == name) {
        Some((_, points)) => points.push(point),
        None => series.push((name.to_owned(), vec![point])),
    }
}

fn sizes(file: &Path, title: &str, unit: &str, series: &[Series]) -> Drawn {
    let points = || series.iter().flat_map(|(_, points)| points);
    let (first, last) = points().fold((f64::INFINITY, 1.0f64), |(least, most), (x, _)| (least.min(*x), most.max(*x)));
    let top = points().map(|point| point.1).fold(0.0, f64::max) * 1.15;
    let area = SVGBackend::new(file, SIZE).into_drawing_area();
    area.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&area)
        .caption(title, ("sans-serif", 18))
        .margin(12)
        .x_label_area_size(36)
        .y_label_area_size(72)
        .build_cartesian_2d((first.min(last) * 0.7..last * 1.5).log_scale(), 0.0..top.max(1.0))?;
    chart.configure_mesh().x_desc("size").y_desc(unit).x_label_formatter(&|size| format!("{size:.0}")).draw()?;
    for (at, (name, points)) in series.iter().enumerate() {
        let color = Palette99::pick(at).to_rgba();
        let mut points = points.clone();
        points.sort_by(|one, other| one.0.total_cmp(&other.0));
        chart.draw_series(LineSeries::new(points.iter().copied(), color))?;
        let dots = points.iter().map(|point| Circle::new(*point, 4, color.filled()));
        chart.draw_series(dots)?.label(name).legend(move |(x, y)| Circle::new((x + 8, y), 4, color.filled()));
    }
    chart.configure_series_labels().background_style(WHITE.mix(0.8)).border_style(BLACK.mix(0.3)).draw()?;
    area.present()
}

/// Draws what share of its capacity each demand needs.
pub(super) fn uses(file: &Path, demands: &[Demand]) -> Result<()> {
    bars(file, demands).map_err(|error| anyhow!("{}: {error}", file.display()))
}

fn bars(file: &Path, demands: &[Demand]) -> Drawn {
    let used = |demand: &Demand| demand.used().max(1e-4);
    let top = demands.iter().map(used).fold(1.0, f64::max) * 3.0;
    let least = demands.iter().map(used).fold(1.0, f64::min) / 2.0;
    let height = demands.len() as u32 * 28 + 110;
    let area = SVGBackend::new(file, (SIZE.0, height)).into_drawing_area();
    area.fill(&WHITE)?;
    let count = demands.len() as f64;
    let mut chart = ChartBuilder::on(&area)
        .caption("share of its capacity that each demand needs", ("sans-serif", 18))
        .margin(12)
        .x_label_area_size(36)
        .build_cartesian_2d((least..top).log_scale(), 0.0..count)?;
    chart.configure_mesh().disable_y_mesh().disable_y_axis().x_label_formatter(&|share| percent(*share)).draw()?;
    for (at, demand) in demands.iter().enumerate() {
        let (low, high) = (count - at as f64 - 0.85, count - at as f64 - 0.15);
        let color = match demand.basis {
            Basis::Assumed => RGBColor(170, 170, 170),
            Basis::Measured | Basis::Stated | Basis::Goal if demand.used() > 1.0 => RGBColor(200, 60, 50),
            Basis::Measured | Basis::Stated | Basis::Goal => RGBColor(70, 120, 180),
        };
        chart.draw_series([Rectangle::new([(least, low), (used(demand), high)], color.mix(0.55).filled())])?;
        let label = format!("{}: {}", demand.what, percent(demand.used()));
        chart.draw_series([Text::new(label, (least * 1.1, high - 0.1), ("sans-serif", 13))])?;
    }
    chart.draw_series(LineSeries::new([(1.0, 0.0), (1.0, count)], BLACK))?;
    area.present()
}

fn percent(share: f64) -> String {
    format!("{} %", super::text::number(share * 100.0))
}
