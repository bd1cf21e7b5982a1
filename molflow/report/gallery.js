// Molecules that turn: one 3D view, beside it what is known of the molecule that is shown, below it cards to choose from.
// A molecule is one triangle mesh of balls and sticks, so that light falls on it and zooming scales it as a whole.
(() => {
  const COLOURS = {H: "#f2f2f2", C: "#6b7178", N: "#3b62e0", O: "#e0302c", F: "#4fbf4f", other: "#c868c8"};
  const RADII = {H: 0.24, other: 0.36};
  const STICK = 0.085, STEP = Math.PI / 12, SIDES = 10;

  const add = (a, b, s = 1) => a.map((x, i) => x + s * b[i]);
  const cross = (a, b) => [a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]];
  const unit = (a) => { const n = Math.hypot(...a) || 1; return a.map((x) => x / n); };

  class Mesh {
    constructor() { this.points = []; this.faces = []; this.colours = []; }

    // A grid of rows and columns of points, closed in the direction of the columns.
    grid(rows, columns, at, colour) {
      const first = this.points.length;
      for (let r = 0; r < rows; r++) for (let c = 0; c < columns; c++) { this.points.push(at(r, c)); this.colours.push(colour); }
      for (let r = 0; r + 1 < rows; r++) for (let c = 0; c < columns; c++) {
        const [a, b] = [first + r * columns + c, first + r * columns + (c + 1) % columns];
        this.faces.push([a, b, a + columns], [b, b + columns, a + columns]);
      }
    }

    ball(centre, radius, colour) {
      this.grid(10, 16, (r, c) => {
        const [t, p] = [Math.PI * r / 9, 2 * Math.PI * c / 16];
        return add(centre, [Math.sin(t) * Math.cos(p), Math.sin(t) * Math.sin(p), Math.cos(t)], radius);
      }, colour);
    }

    stick(from, to, colour) {
      const axis = unit(add(to, from, -1));
      const u = unit(cross(axis, Math.abs(axis[0]) < 0.9 ? [1, 0, 0] : [0, 1, 0])), v = cross(axis, u);
      this.grid(2, SIDES, (r, c) => {
        const p = 2 * Math.PI * c / SIDES;
        return add(add(r ? to : from, u, STICK * Math.cos(p)), v, STICK * Math.sin(p));
      }, colour);
    }

    trace() {
      const [x, y, z] = [0, 1, 2].map((k) => this.points.map((p) => p[k]));
      const [i, j, k] = [0, 1, 2].map((n) => this.faces.map((f) => f[n]));
      const lighting = {ambient: 0.6, diffuse: 0.7, specular: 0.15, roughness: 0.6, fresnel: 0.05};
      return {type: "mesh3d", x, y, z, i, j, k, vertexcolor: this.colours, hoverinfo: "skip", lighting,
              lightposition: {x: 500, y: 500, z: 1000}};
    }
  }

  // The strands of a double or triple bond lie side by side, in the plane of the bond and the vector from the centre.
  function bond(mesh, a, b, order, colours) {
    const axis = unit(add(b, a, -1)), middle = add(a, add(b, a, -1), 0.5);
    const side = unit(cross(axis, Math.abs(axis[2]) < 0.9 ? [0, 0, 1] : [0, 1, 0]));
    for (let s = 0; s < order; s++) {
      const shift = (s - (order - 1) / 2) * 2.6 * STICK;
      mesh.stick(add(a, side, shift), add(middle, side, shift), colours[0]);
      mesh.stick(add(middle, side, shift), add(b, side, shift), colours[1]);
    }
  }

  function trace({elements, positions, bonds}) {
    const mesh = new Mesh(), colours = elements.map((e) => COLOURS[e] || COLOURS.other);
    elements.forEach((e, n) => mesh.ball(positions[n], RADII[e] || RADII.other, colours[n]));
    for (const [i, j, order] of bonds) bond(mesh, positions[i], positions[j], order, [colours[i], colours[j]]);
    return mesh.trace();
  }

  for (const gallery of document.querySelectorAll(".gallery")) {
    const molecules = JSON.parse(gallery.querySelector("script").textContent);
    const stage = gallery.querySelector(".stage"), about = gallery.querySelector(".about");
    const cards = [...gallery.querySelectorAll(".card")];
    let shown = -1, angle = 0.6, height = 0.5, distance = 1.9;

    const eye = () => ({x: distance * Math.cos(height) * Math.cos(angle), y: distance * Math.cos(height) * Math.sin(angle),
                        z: distance * Math.sin(height)});
    const shut = {visible: false, showspikes: false};
    const layout = () => ({
      margin: {l: 0, r: 0, t: 0, b: 0}, paper_bgcolor: "rgba(0,0,0,0)",
      scene: {xaxis: shut, yaxis: shut, zaxis: shut, aspectmode: "data", dragmode: "orbit", camera: {eye: eye()}},
    });

    function show(n) {
      shown = n;
      cards.forEach((card, k) => card.setAttribute("aria-pressed", String(k === n)));
      about.innerHTML = cards[n].innerHTML;
      return Plotly.react(stage, [trace(molecules[n])], layout(), {responsive: true, displayModeBar: false})
        .then(() => { stage.dataset.molecule = n; });
    }

    function turn(way) {
      const camera = stage._fullLayout.scene.camera.eye;  // a finger may have moved it
      distance = Math.hypot(camera.x, camera.y, camera.z);
      [angle, height] = [Math.atan2(camera.y, camera.x), Math.asin(camera.z / distance)];
      if (way === "left") angle -= STEP;
      if (way === "right") angle += STEP;
      if (way === "up") height = Math.min(height + STEP, 1.5);
      if (way === "down") height = Math.max(height - STEP, -1.5);
      if (way === "near") distance /= 1.2;
      if (way === "far") distance *= 1.2;
      return Plotly.relayout(stage, {"scene.camera.eye": eye()}).then(() => { stage.dataset.turned = way; });
    }

    const visible = () => cards.filter((card) => !card.parentElement.hidden);
    function step(by) {
      const all = visible(), place = all.indexOf(cards[shown]);
      if (all.length) show(cards.indexOf(all[(place + by + all.length) % all.length]));
    }

    const chosen = {status: "", source: ""};
    const choices = (kind) => gallery.querySelectorAll(`[data-${kind}]`);
    function keep(kind, button) {
      chosen[kind] = button.dataset[kind];
      choices(kind).forEach((b) => b.setAttribute("aria-pressed", String(b === button)));
      const refused = (m) => Object.entries(chosen).some(([key, value]) => value !== "" && m[key] !== value);
      molecules.forEach((m, n) => { cards[n].parentElement.hidden = refused(m); });
      if (cards[shown].parentElement.hidden) step(1);
    }

    const keys = {ArrowLeft: "left", ArrowRight: "right", ArrowUp: "up", ArrowDown: "down", "+": "near", "-": "far"};
    stage.addEventListener("keydown", (event) => {
      if (keys[event.key]) { event.preventDefault(); turn(keys[event.key]); }
    });
    cards.forEach((card, n) => card.addEventListener("click", () => {
      show(n);
      stage.scrollIntoView({block: "nearest"});
    }));
    gallery.querySelectorAll("[data-turn]").forEach((b) => b.addEventListener("click", () => turn(b.dataset.turn)));
    gallery.querySelectorAll("[data-step]").forEach((b) => b.addEventListener("click", () => step(Number(b.dataset.step))));
    for (const kind in chosen) choices(kind).forEach((b) => b.addEventListener("click", () => keep(kind, b)));
    show(0);
  }
})();
