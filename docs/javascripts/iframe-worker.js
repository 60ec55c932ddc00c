// A page that was opened from disk may start no worker; the search, which is one, then runs in a hidden frame.
if (location.protocol === "file:") {
  window.Worker = class extends EventTarget {
    constructor(address) {
      super();
      const frame = document.createElement("iframe");
      frame.hidden = true;
      frame.worker = this;
      frame.srcdoc = `<script>
        window.postMessage = (data) => frameElement.worker.dispatchEvent(new MessageEvent("message", {data}));
      </` + `script><script src="${address}"></` + "script>";
      this.ready = new Promise((done) => frame.addEventListener("load", () => done(frame.contentWindow)));
      document.body.append(frame);
    }

    postMessage(data) {
      this.ready.then((inside) => inside.dispatchEvent(new inside.MessageEvent("message", { data })));
    }
  };
}
