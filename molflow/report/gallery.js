// Molecules that turn: a 3D view by 3Dmol.js, beside it what is known of the molecule shown, and cards to choose from.
(() => {
  const FEW = 18;  // cards at first
  const STEP = 15;  // degrees
  const TURNS = {ArrowLeft: ["y", -STEP], ArrowRight: ["y", STEP], ArrowUp: ["x", -STEP], ArrowDown: ["x", STEP]};
  const ZOOMS = {"+": 1.2, "-": 1 / 1.2};
  const STYLE = {stick: {radius: 0.11, colorscheme: "Jmol"}, sphere: {scale: 0.22, colorscheme: "Jmol"}};
  const MARK = {radius: 0.6, color: "#ff3b3b", opacity: 0.55};
  const LABEL = {fontSize: 11, backgroundOpacity: 0.55, alignment: "center", inFront: true};

  const point = ([x, y, z]) => ({x, y, z});

  function atoms({elements, positions, bonds}) {
    const all = elements.map((elem, n) => ({elem, serial: n, ...point(positions[n]), bonds: [], bondOrder: []}));
    for (const [i, j, order] of bonds) for (const [a, b] of [[i, j], [j, i]]) {
      all[a].bonds.push(b);
      all[a].bondOrder.push(order);
    }
    return all;
  }

  const HEADER = "  " + "molflow".padEnd(18) + "3D";  // the dimension is in columns 21 and 22

  // V3000, which has no limit of atoms and no columns.
  function sdf({name, source, elements, positions, bonds, charges}) {
    const line = (text) => `M  V30 ${text}\n`;
    const atom = (e, n) => line(`${n + 1} ${e} ${positions[n].join(" ")} 0${charges[n] ? ` CHG=${charges[n]}` : ""}`);
    const bond = ([i, j, order], n) => line(`${n + 1} ${order} ${i + 1} ${j + 1}`);
    return `${[source, name].filter(Boolean).join(" ")}\n${HEADER}\n\n  0  0  0  0  0  0            999 V3000\n`
      + line("BEGIN CTAB") + line(`COUNTS ${elements.length} ${bonds.length} 0 0 0`)
      + line("BEGIN ATOM") + elements.map(atom).join("") + line("END ATOM")
      + (bonds.length ? line("BEGIN BOND") + bonds.map(bond).join("") + line("END BOND") : "")
      + line("END CTAB") + "M  END\n$$$$\n";
  }

  function save(molecules, name) {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([molecules.map(sdf).join("")], {type: "chemical/x-mdl-sdfile"}));
    link.download = `${name.replace(/\W+/g, "-")}.sdf`;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  }

  for (const gallery of document.querySelectorAll(".gallery")) {
    const find = (selector) => gallery.querySelector(selector);
    const molecules = JSON.parse(find("script").textContent);
    const stage = find(".stage"), about = find(".about"), list = find(".cards");
    const cards = [...gallery.querySelectorAll(".card")];
    const chosen = {status: "", source: "", kind: ""};
    let shown = -1, viewer = null, kept = [], order = "drawn", most = FEW;

    function show(n) {
      shown = n;
      cards.forEach((card, k) => card.setAttribute("aria-pressed", String(k === n)));
      about.replaceChildren(...[...cards[n].querySelectorAll("span")].map((span) => span.cloneNode(true)));
      find("[data-do=copy]")?.toggleAttribute("hidden", !molecules[n].smiles);
      draw();
    }

    // A viewer, or false where the browser has no WebGL: the stage then says so.
    function create() {
      try {
        const made = $3Dmol.createViewer(stage, {backgroundAlpha: 0, antialias: true});
        made?.rotate(30, "y").rotate(20, "x");  // many files have molecules along the axes
        return made || false;
      } catch {
        stage.replaceChildren();
        return false;
      }
    }

    function draw() {
      const molecule = molecules[shown];
      viewer = viewer ?? create();
      if (!viewer) return;
      viewer.clear();
      viewer.addModel().addAtoms(atoms(molecule));
      viewer.setStyle({}, STYLE);
      for (const n of molecule.marked) viewer.addSphere({center: point(molecule.positions[n]), ...MARK});
      molecule.elements.forEach((element, n) => {
        const charge = molecule.charges[n], sign = charge > 0 ? "+" : "−";
        const number = gallery.classList.contains("numbered") ? n + 1 : "";
        const text = [number, charge ? `${Math.abs(charge) > 1 ? Math.abs(charge) : ""}${sign}` : ""].join(" ").trim();
        if (text) viewer.addLabel(text, {position: point(molecule.positions[n]), ...LABEL});
      });
      viewer.zoomTo();
      viewer.render();
      stage.dataset.molecule = shown;
    }

    function step(by) {
      if (kept.length) show(kept[(kept.indexOf(shown) + by + kept.length) % kept.length]);
    }

    // Keep the molecules with the chosen values, and let their first few cards be seen.
    function arrange() {
      const wanted = (m) => Object.entries(chosen).every(([key, value]) => value === "" || m[key] === value);
      kept = cards.map((_, n) => n).filter((n) => wanted(molecules[n])).sort(ORDERS[order]);
      list.append(...kept.map((n) => cards[n].parentElement));
      const seen = new Set(kept.slice(0, most));
      cards.forEach((card, n) => { card.parentElement.hidden = !seen.has(n); });
      find("[data-do=more]").hidden = kept.length <= most;
      find("[data-do=more]").textContent = `show all ${kept.length}`;
      gallery.querySelectorAll("[data-status]").forEach((b) =>
        b.setAttribute("aria-pressed", String(b.dataset.status === chosen.status)));
      if (stage.clientWidth && kept.length && !kept.includes(shown)) show(kept[0]);
    }

    const kindOf = (n) => molecules[n].kind || "\uffff";  // those without a reason come last
    const ORDERS = {
      drawn: (a, b) => a - b,
      record: (a, b) => molecules[a].name.localeCompare(molecules[b].name, "en", {numeric: true}),
      reason: (a, b) => kindOf(a).localeCompare(kindOf(b)),
      atoms: (a, b) => molecules[a].elements.length - molecules[b].elements.length,
    };

    function copy(button) {
      const tell = (word) => { button.textContent = word; setTimeout(() => { button.textContent = "copy SMILES"; }, 1500); };
      navigator.clipboard.writeText(molecules[shown].smiles).then(() => tell("copied"), () => {
        getSelection().selectAllChildren(about.querySelector(".smiles"));
        tell("selected");
      });
    }

    const actions = {
      previous: () => step(-1),
      next: () => step(1),
      numbers: (button) => {
        button.setAttribute("aria-pressed", String(gallery.classList.toggle("numbered")));
        draw();
      },
      copy,
      save: () => save([molecules[shown]], molecules[shown].name),
      "save-all": () => save(kept.map((n) => molecules[n]), "molecules"),
      more: () => {
        most = Infinity;
        arrange();
      },
      close: () => gallery.classList.remove("open"),
    };

    stage.addEventListener("keydown", (event) => {
      if (!viewer || !(event.key in TURNS || event.key in ZOOMS)) return;
      event.preventDefault();
      if (event.key in TURNS) viewer.rotate(TURNS[event.key][1], TURNS[event.key][0]);
      else viewer.zoom(ZOOMS[event.key]);
    });
    cards.forEach((card, n) => card.addEventListener("click", () => {
      gallery.classList.add("open");  // on a phone the view is closed at first
      show(n);
    }));
    gallery.querySelectorAll("[data-do]").forEach((b) => b.addEventListener("click", () => actions[b.dataset.do](b)));
    gallery.querySelectorAll("[data-status]").forEach((b) => b.addEventListener("click", () => {
      chosen.status = b.dataset.status;
      arrange();
    }));
    gallery.querySelectorAll("select").forEach((menu) => menu.addEventListener("change", () => {
      if (menu.name === "sort") order = menu.value;
      else chosen[menu.name] = menu.value;
      arrange();
    }));
    arrange();
  }
})();
