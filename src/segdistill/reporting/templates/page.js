"use strict";

const element = (id) => document.getElementById(id);

element("theme").addEventListener("click", () => {
  const dark = getComputedStyle(document.documentElement).colorScheme === "dark" ||
    (!document.documentElement.dataset.theme && matchMedia("(prefers-color-scheme: dark)").matches);
  document.documentElement.dataset.theme = dark ? "light" : "dark";
});

function rgb(colour) {
  return [1, 3, 5].map((at) => parseInt(colour.slice(at, at + 2), 16));
}

async function pixels(address) {
  const picture = new Image();
  picture.src = address;
  await picture.decode();
  const canvas = document.createElement("canvas");
  canvas.width = picture.naturalWidth;
  canvas.height = picture.naturalHeight;
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.drawImage(picture, 0, 0);
  return context.getImageData(0, 0, canvas.width, canvas.height);
}

// Layers are keyed "image", "truth", or a network's key. In the pictures of labels and predictions red is the class and
// green the kind of mistake.
class Gallery {
  constructor(data) {
    this.data = data;
    this.colours = data.classes.map((one) => rgb(one.colour));
    this.kinds = new Map(data.mistakes.map((kind) => [kind.code, rgb(kind.colour)]));
    this.turn = 0;
    for (const id of ["left", "right", "view", "class"]) {
      element(id).addEventListener("change", () => this.draw());
    }
    element("slider").addEventListener("input", () => this.slide());
    const stage = element("stage");
    const follow = (event) => {
      const box = stage.getBoundingClientRect();
      element("slider").value = 100 * (event.clientX - box.left) / box.width;
      this.slide();
    };
    stage.addEventListener("pointerdown", (event) => {
      stage.setPointerCapture(event.pointerId);
      follow(event);
    });
    stage.addEventListener("pointermove", (event) => {
      if (event.buttons) follow(event);
    });
    data.scenes.forEach((scene, index) => this.addThumbnail(scene, index));
    element("gallery").hidden = false;
    this.slide();
  }

  addThumbnail(scene, index) {
    const label = document.createElement("label");
    const input = document.createElement("input");
    input.type = "radio";
    input.name = "scene";
    input.value = String(index);
    input.checked = index === 0;
    input.addEventListener("change", () => this.open(index));
    const picture = document.createElement("img");
    picture.src = scene.photo;
    picture.alt = "";
    const note = document.createElement("small");
    note.textContent = scene.note;
    label.append(input, picture, scene.name, note);
    element("thumbnails").append(label);
  }

  addName(parent, tag, one) {
    const item = document.createElement(tag);
    const swatch = document.createElement("span");
    swatch.className = "swatch";
    swatch.style.background = one.colour;
    item.append(swatch, one.name);
    parent.append(item);
    return item;
  }

  async open(index) {
    const turn = ++this.turn;
    const scene = this.data.scenes[index];
    const keys = Object.keys(scene.predictions);
    const found = await Promise.all([scene.photo, scene.labels, ...keys.map((key) => scene.predictions[key])].map(pixels));
    if (turn !== this.turn) return;  // another image was chosen meanwhile
    this.name = scene.name;
    this.photo = found[0].data;
    this.labels = found[1].data;
    // Every fourth value, the red one, is a class.
    this.hasUnlabelled = this.labels.some((label, at) => at % 4 === 0 && label >= this.colours.length);
    this.predictions = new Map(keys.map((key, at) => [key, found[2 + at].data]));
    for (const id of ["left-picture", "right-picture"]) {
      element(id).width = found[0].width;
      element(id).height = found[0].height;
    }
    element("viewer").style.setProperty("--aspect", found[0].width / found[0].height);
    element("viewer").style.setProperty("--width", found[0].width);
    this.draw();
  }

  slide() {
    element("stage").style.setProperty("--shown", `${element("slider").value}%`);
  }

  draw() {
    const chosen = element("class").value === "" ? null : Number(element("class").value);
    const asMistakes = element("view").value === "mistakes";
    const counts = [];
    for (const side of ["left", "right"]) {
      const select = element(side);
      const name = select.selectedOptions[0].textContent;
      counts.push(this.drawLayer(element(`${side}-picture`), select.value, asMistakes, chosen));
      element(`${side}-picture`).setAttribute("aria-label", `${name} of ${this.name}`);
      element(`${side}-name`).textContent = name;
      element(`${side}-head`).textContent = name;
    }
    element("legend").replaceChildren();
    const classes = this.hasUnlabelled ? [...this.data.classes, { name: "no label", colour: "#000000" }] : this.data.classes;
    (asMistakes ? this.data.mistakes : classes).forEach((one) => this.addName(element("legend"), "li", one));
    element("meaning").textContent = asMistakes ?
      "Only the wrong pixels of a prediction are coloured, and the colour says what is wrong; grey pixels are right:" :
      "The colour of a pixel is its class, predicted by a network or, for the truth, given by the labels:";
    this.showCounts(counts, chosen);
  }

  // Draws one layer and returns how many pixels count and how many have each kind of mistake; null for no prediction.
  drawLayer(canvas, layer, asMistakes, chosen) {
    const context = canvas.getContext("2d");
    const result = context.createImageData(canvas.width, canvas.height);
    const out = result.data;
    const prediction = this.predictions.get(layer);
    const labels = this.labels;
    const shown = layer === "truth" ? labels : prediction;
    const counts = new Map();
    let valid = 0;
    for (let at = 0; at < out.length; at += 4) {
      let colour = null;
      let dim = layer !== "image";
      if (shown) {
        const counting = labels[at] < this.colours.length;
        const concerned = chosen === null || shown[at] === chosen || labels[at] === chosen;
        const kind = shown[at + 1];
        if (counting && concerned) {
          valid += 1;
          counts.set(kind, (counts.get(kind) || 0) + 1);
        }
        if (asMistakes && prediction) {
          if (kind && concerned) colour = this.kinds.get(kind);
        } else if (shown[at] < this.colours.length) {
          if (chosen === null || shown[at] === chosen) colour = this.colours[shown[at]];
        } else {
          colour = [0, 0, 0];
        }
      }
      if (colour) {
        out[at] = colour[0];
        out[at + 1] = colour[1];
        out[at + 2] = colour[2];
      } else if (dim) {
        // What is not in question is a pale grey photograph, so that colours stand out.
        const grey = 0.3 * this.photo[at] + 0.59 * this.photo[at + 1] + 0.11 * this.photo[at + 2];
        out[at] = out[at + 1] = out[at + 2] = 40 + 0.45 * grey;
      } else {
        out[at] = this.photo[at];
        out[at + 1] = this.photo[at + 1];
        out[at + 2] = this.photo[at + 2];
      }
      out[at + 3] = 255;
    }
    context.putImageData(result, 0, 0);
    return prediction ? { counts, valid } : null;
  }

  showCounts(sides, chosen) {
    const body = element("counts");
    body.replaceChildren();
    const share = (side, codes) => {
      if (!side) return "–";
      const wrong = codes.reduce((sum, code) => sum + (side.counts.get(code) || 0), 0);
      return side.valid ? (100 * wrong / side.valid).toFixed(2) : "–";
    };
    const addRow = (head, codes) => {
      const row = document.createElement("tr");
      head.scope = "row";
      row.append(head);
      for (const side of sides) {
        const cell = document.createElement("td");
        cell.textContent = share(side, codes);
        row.append(cell);
      }
      body.append(row);
    };
    for (const kind of this.data.mistakes) {
      addRow(this.addName(document.createElement("tr"), "th", kind), [kind.code]);
    }
    const all = document.createElement("th");
    all.textContent = chosen === null ? "all" : `all, of the pixels that are or are called ${this.data.classes[chosen].name}`;
    addRow(all, this.data.mistakes.map((kind) => kind.code));
  }
}

if (element("gallery-data")) {
  new Gallery(JSON.parse(element("gallery-data").textContent)).open(0);
}
